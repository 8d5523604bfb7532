"""A real Kubernetes control plane inside a network namespace of its own.

``with ControlPlane(directory) as plane: plane.api.get("/readyz")``. Alone it has etcd, API server and controllers,
which is what API clients need; ``cluster=True`` adds scheduler, kube-proxy and CoreDNS, which pods need.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.api import Api, ApiError
from tests.cluster.assets import program
from tests.cluster.certificates import Authority, signing_key
from tests.cluster.namespace import Namespace

NODE_ADDRESS = "10.244.0.1"
API_PORT = 6443
DNS_ADDRESS = "10.96.0.10"
POD_RANGE, SERVICE_RANGE = "10.244.0.0/16", "10.96.0.0/16"
ADMIN_TOKEN = "administrator"
_MASTERS = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns")
_START_SECONDS = 60.0


class ProgramFailed(Exception):
    """A program of the control plane ended, or did not become ready."""


class Program:
    """A program that runs inside the namespace, with its output in a file."""

    def __init__(
        self, name: str, command: Sequence[str], directory: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._command, self._environ = list(command), {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its output is added to the log."""
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=self._environ,
                start_new_session=True,
            )  # fmt: skip

    @property
    def process_id(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 10.0) -> None:
        """End it and wait; after ``seconds`` it is killed."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Nothing, while it runs.

        Raises:
            ProgramFailed: it has ended; with the end of its log.
        """
        if not self.running:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise ProgramFailed(f"{self.name} ended:\n{tail}")


class ControlPlane:
    """etcd, kube-apiserver and kube-controller-manager; with ``cluster`` scheduler, kube-proxy and CoreDNS too.

    ``authenticator`` holds tokens as lines ``token,user,uid,"group,group"`` beside the administrator's.
    """

    def __init__(
        self, directory: Path, *, cluster: bool = False, flags: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)
        self._cluster, self._flags = cluster, flags or {}
        self.programs: dict[str, Program] = {}
        self.namespace: Namespace
        self.api: Api

    def __enter__(self) -> Self:
        self.namespace = Namespace()
        try:
            self._network()
            self._files()
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    # ---- for tests

    @property
    def kubeconfig(self) -> Path:
        """The administrator's, for programs inside the namespace."""
        return self.directory / "admin.kubeconfig"

    def caller(self, token: str) -> Api:
        """The API as another caller uses it."""
        return Api(NODE_ADDRESS, API_PORT, self.authority.certificate, token, self.namespace.connect)

    def run(self, name: str, *arguments: str, seconds: float = 60.0, fails: bool = False) -> str:
        """Run a program of the assets (kubectl, helm) as administrator; returns what it printed.

        Raises:
            ProgramFailed: it failed, or with ``fails`` it did not.
        """
        command = self.namespace.command([str(program(name)), *arguments])
        environ = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.directory)}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, env=environ
        )
        if (done.returncode != 0) != fails:
            raise ProgramFailed(
                f"{name} {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done.stdout + (done.stderr if fails else "")

    def write_kubeconfig(self, path: Path, token: str) -> Path:
        """A kubeconfig for a caller inside the namespace."""
        server = {
            "server": f"https://{NODE_ADDRESS}:{API_PORT}",
            "certificate-authority": str(self.authority.certificate),
        }
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "test", "cluster": server}],
                    "users": [{"name": "test", "user": {"token": token}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "current-context": "test",
                }
            )
        )
        path.chmod(0o600)
        return path

    def stop_api_server(self) -> None:
        """An outage of the API server: nobody reaches it until ``start_api_server``."""
        self.programs["kube-apiserver"].stop(signal.SIGKILL)

    def start_api_server(self) -> None:
        """End the outage."""
        self.programs["kube-apiserver"].start()
        self._await_api_server()

    # ---- making it

    def _network(self) -> None:
        run = self.namespace.run
        run("ip", "addr", "add", f"{NODE_ADDRESS}/32", "dev", "lo")
        run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        # A default route over a link nobody is at: without one the node itself cannot reach Service addresses.
        run("ip", "link", "add", "away", "type", "veth", "peer", "name", "nowhere")
        run("ip", "link", "set", "away", "up")
        run("ip", "link", "set", "nowhere", "up")
        run("ip", "route", "add", "default", "dev", "away", "src", NODE_ADDRESS)

    def _files(self) -> None:
        self.authority = Authority(self.directory / "pki", "test-kubernetes")
        (self.directory / "pki").chmod(0o755)
        self.authority.certificate.chmod(0o644)
        names = (
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "10.96.0.1",
            NODE_ADDRESS,
            "127.0.0.1",
        )
        self._serving = self.authority.leaf("apiserver", "kube-apiserver", *names)
        self._front = Authority(self.directory / "front-proxy", "test-front-proxy")
        self._front_client = self._front.leaf("client", "front-proxy-client")
        self._signing = signing_key(self.directory / "service-accounts.key")
        tokens = self.directory / "tokens.csv"
        lines = [f'{ADMIN_TOKEN},administrator,1,"system:masters"']
        lines += [f'{name},{name},{name},"system:masters"' for name in _MASTERS]
        tokens.write_text("\n".join(lines) + "\n")
        tokens.chmod(0o600)
        self.write_kubeconfig(self.kubeconfig, ADMIN_TOKEN)
        for name in _MASTERS:
            self.write_kubeconfig(self.directory / f"{name}.kubeconfig", name)

    def _add(self, name: str, *flags: str) -> Program:
        command = [str(program(name)), *flags, *self._flags.get(name, ())]
        self.programs[name] = made = Program(name, self.namespace.command(command), self.directory)
        made.start()
        return made

    def _start(self) -> None:
        self._add(
            "etcd", f"--data-dir={self.directory / 'etcd'}", "--unsafe-no-fsync",
            "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=default=http://127.0.0.1:2380", "--log-level=warn",
        )  # fmt: skip
        self._add("kube-apiserver", *self._api_server_flags())
        self.api = self.caller(ADMIN_TOKEN)
        self._await_api_server()
        config = self.directory / "kube-controller-manager.kubeconfig"
        self._add(
            "kube-controller-manager", *_kubeconfigs(config), "--leader-elect=false",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self._signing}", f"--root-ca-file={self.authority.certificate}",
            "--secure-port=10257", "--bind-address=127.0.0.1", f"--cert-dir={self.directory / 'controllers'}",
            "--kube-api-qps=200", "--kube-api-burst=400", "--horizontal-pod-autoscaler-sync-period=1s",
            "--node-monitor-grace-period=16s", "--node-monitor-period=1s", f"--cluster-cidr={POD_RANGE}",
            f"--cluster-signing-cert-file={self.authority.certificate}", "--controllers=*",
        )  # fmt: skip
        if self._cluster:
            self._start_for_pods()

    def _start_for_pods(self) -> None:
        config = self.directory / "kube-scheduler.kubeconfig"
        self._add(
            "kube-scheduler", *_kubeconfigs(config), "--leader-elect=false", "--secure-port=10259",
            "--bind-address=127.0.0.1", f"--cert-dir={self.directory / 'scheduler'}",
            "--kube-api-qps=200", "--kube-api-burst=400",
        )  # fmt: skip
        self._add(
            "kube-proxy", f"--kubeconfig={self.directory / 'kube-proxy.kubeconfig'}", "--proxy-mode=nftables",
            "--hostname-override=node-1", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0", f"--cluster-cidr={POD_RANGE}",
            "--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249",
        )  # fmt: skip
        corefile = self.directory / "Corefile"
        corefile.write_text(
            f".:53 {{\n  bind {NODE_ADDRESS}\n  errors\n  kubernetes cluster.local {{\n"
            f"    kubeconfig {self.directory / 'coredns.kubeconfig'}\n    ttl 1\n  }}\n}}\n"
        )
        self._add("coredns", f"-conf={corefile}")
        self._dns_service()

    def _api_server_flags(self) -> list[str]:
        return [
            "--etcd-servers=http://127.0.0.1:2379", f"--bind-address={NODE_ADDRESS}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--secure-port={API_PORT}", f"--cert-dir={self.directory / 'apiserver'}",
            f"--tls-cert-file={self._serving[0]}", f"--tls-private-key-file={self._serving[1]}",
            f"--client-ca-file={self.authority.certificate}", f"--service-account-key-file={self._signing}",
            f"--service-account-signing-key-file={self._signing}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICE_RANGE}", "--authorization-mode=Node,RBAC",
            f"--token-auth-file={self.directory / 'tokens.csv'}", "--enable-aggregator-routing=true",
            "--allow-privileged=true",
            f"--requestheader-client-ca-file={self._front.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-", f"--proxy-client-cert-file={self._front_client[0]}",
            f"--proxy-client-key-file={self._front_client[1]}", "--default-not-ready-toleration-seconds=2",
            "--default-unreachable-toleration-seconds=2",
        ]  # fmt: skip

    def _await_api_server(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while True:
            for each in ("etcd", "kube-apiserver"):
                self.programs[each].check()
            try:
                self.api.get("/readyz")
                return
            except (OSError, ApiError):
                if time.monotonic() > end:
                    raise ProgramFailed("the API server is not ready in time") from None
            time.sleep(0.1)

    def _dns_service(self) -> None:
        ports = [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]
        self.api.create(
            "/api/v1/namespaces/kube-system/services",
            {"metadata": {"name": "kube-dns"}, "spec": {"clusterIP": DNS_ADDRESS, "ports": ports}},
        )
        self.api.create(
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices",
            {
                "metadata": {"name": "kube-dns", "labels": {"kubernetes.io/service-name": "kube-dns"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
                "ports": ports,
            },
        )

    def _stop(self) -> None:
        for each in reversed(self.programs.values()):
            each.stop(signal.SIGKILL if each.name != "etcd" else signal.SIGTERM)
        self.namespace.close()


def _kubeconfigs(path: Path) -> list[str]:
    return [
        f"--{kind}={path}" for kind in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    ]
