"""KEDA's real operator and metrics adapter beside a test cluster's control plane."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.api import ApiError
from tests.cluster.assets import assets
from tests.cluster.certificates import Authority
from tests.cluster.cluster import Cluster, until
from tests.cluster.control_plane import NODE_ADDRESS, Program

_METRICS = f"{NODE_ADDRESS}:9666"
_ADAPTER_PORT = 6444


def why_no_keda() -> str:
    """Why KEDA cannot run here; empty: it can."""
    directory = assets(keda=True)
    if directory is None or not (directory / "keda-operator").is_file():
        return "did not run: no KEDA here. `make control-plane` builds it, or put it where KUBEBUILDER_ASSETS says"
    return ""


class Keda:
    """``with Keda(cluster): …``; ask ``why_no_keda`` first."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        directory = assets(keda=True)
        assert directory is not None
        self._programs, self._assets = list[Program](), directory
        self._directory = cluster.directory / "keda"

    def __enter__(self) -> Self:
        try:
            self._define()
            self._start()
            self._register()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in reversed(self._programs):
            each.stop()

    def _define(self) -> None:
        api, plane = self._cluster.api, self._cluster.plane
        plane.run("kubectl", "apply", "--server-side", "-f", str(self._assets / "keda-crds"))
        api.create("/api/v1/namespaces", {"metadata": {"name": "keda"}})
        api.create("/api/v1/namespaces/keda/serviceaccounts", {"metadata": {"name": "keda-operator"}})
        api.create(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            {
                "metadata": {"name": "keda-operator"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin",
                },
                "subjects": [{"kind": "ServiceAccount", "name": "keda-operator", "namespace": "keda"}],
            },
        )  # fmt: skip
        for plural in ("scaledobjects", "triggerauthentications"):
            until(lambda p=plural: self._known(p), f"{plural} are known", 60)

    def _known(self, plural: str) -> bool:
        try:
            return self._cluster.api.find(f"/apis/keda.sh/v1alpha1/{plural}") is not None
        except ApiError as error:
            if error.status == 429:  # its storage is being made
                return False
            raise

    def _start(self) -> None:
        self._directory.mkdir()
        self._authority = Authority(self._directory / "certificates", "test-keda")
        names = ("keda-operator.keda.svc", "keda-metrics-apiserver.keda.svc", NODE_ADDRESS)
        certificate, key = self._authority.leaf("tls", "keda", *names)
        made = self._cluster.api.create(
            "/api/v1/namespaces/keda/serviceaccounts/keda-operator/token",
            {"spec": {"expirationSeconds": 86400}},
        )
        config = self._cluster.plane.write_kubeconfig(self._directory / "kubeconfig", made["status"]["token"])
        directory = str(self._authority.directory)
        self._run(
            "keda-operator", config, f"--kubeconfig={config}", f"--cert-dir={directory}",
            f"--metrics-service-bind-address={_METRICS}", "--health-probe-bind-address=127.0.0.1:8091",
            "--metrics-bind-address=127.0.0.1:8092",
        )  # fmt: skip
        self._run(
            "keda-adapter", config, f"--bind-address={NODE_ADDRESS}", f"--secure-port={_ADAPTER_PORT}",
            f"--cert-dir={directory}", f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}",
            f"--lister-kubeconfig={config}", f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}", f"--metrics-service-address={_METRICS}",
        )  # fmt: skip

    def _run(self, name: str, config: Path, *flags: str) -> None:
        command = self._cluster.inside(str(self._assets / name), *flags)
        environ = {
            **os.environ, "KUBECONFIG": str(config), "WATCH_NAMESPACE": "", "KEDA_CLUSTER_OBJECT_NAMESPACE": "keda",
            "POD_NAMESPACE": "keda",
        }  # fmt: skip
        made = Program(name, command, self._directory, environ)
        made.start()
        self._programs.append(made)

    def _register(self) -> None:
        api = self._cluster.api
        port = {"name": "https", "port": 443, "protocol": "TCP"}
        api.create(
            "/api/v1/namespaces/keda/services",
            {
                "metadata": {"name": "keda-metrics-apiserver"},
                "spec": {"ports": [{**port, "targetPort": _ADAPTER_PORT}]},
            },
        )
        api.create(
            "/apis/discovery.k8s.io/v1/namespaces/keda/endpointslices",
            {
                "metadata": {
                    "name": "keda-metrics-apiserver",
                    "labels": {"kubernetes.io/service-name": "keda-metrics-apiserver"},
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
                "ports": [{**port, "port": _ADAPTER_PORT}],
            },
        )
        bundle = base64.b64encode(self._authority.certificate.read_bytes()).decode()
        api.create(
            "/apis/apiregistration.k8s.io/v1/apiservices",
            {
                "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
                "spec": {
                    "group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
                    "versionPriority": 100, "caBundle": bundle,
                    "service": {"name": "keda-metrics-apiserver", "namespace": "keda", "port": 443},
                },
            },
        )  # fmt: skip
        until(self._available, "the API server trusts KEDA's adapter", 60)

    def _available(self) -> bool:
        for each in self._programs:
            each.check()
        path = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io"
        conditions = self._cluster.api.get(path).get("status", {}).get("conditions", [])
        return any(c["type"] == "Available" and c["status"] == "True" for c in conditions)
