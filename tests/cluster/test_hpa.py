"""HPA mode: the real HPA controller scales a pool on the CPU that its hosts use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.assets import ROOT
from tests.cluster.cluster import Cluster, until
from tests.cluster.control_plane import ADMIN_TOKEN, NODE_ADDRESS, Program
from tests.cluster.release import Release, small

pytestmark = [
    pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(480),
]  # fmt: skip

PORT = 6445


def values() -> dict[str, Any]:
    """A host asks for a twentieth of a core: sixteen busy episodes are too much for one."""
    cpu = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 100}},
    }
    up = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 5}]}
    down = {"stabilizationWindowSeconds": 10, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 5}]}
    scaling = {
        "mode": "hpa",
        "min": 1,
        "max": 3,
        "hpa": {"metrics": [cpu], "behavior": {"scaleUp": up, "scaleDown": down}},
    }
    resources = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    pool = {
        "slots": 64,
        "scaling": scaling,
        "drain": {"deadline": 20, "checkpoint": 1},
        "resources": resources,
    }
    return small(pools={"walk": pool})


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    certificate, key = cluster.plane.authority.leaf("metrics", "metrics", NODE_ADDRESS)
    command = cluster.inside(
        sys.executable, "-m", "tests.cluster.metrics_api", "--address", NODE_ADDRESS, "--port", str(PORT),
        "--certificate", str(certificate), "--key", str(key),
        "--authority", str(cluster.plane.authority.certificate), "--token", ADMIN_TOKEN,
    )  # fmt: skip
    server = Program("metrics-api", command, cluster.directory, {"PYTHONPATH": str(ROOT)})
    server.start()
    try:
        serve_metrics(cluster)
        made = Release(cluster, "by-hpa")
        made.install(values())
        yield made
    finally:
        server.stop()


def serve_metrics(cluster: Cluster) -> None:
    """Let the API server find the metrics."""
    api = cluster.api
    port = {"name": "https", "port": 443, "protocol": "TCP"}
    services = "/api/v1/namespaces/kube-system/services"
    api.create(services, {"metadata": {"name": "metrics"}, "spec": {"ports": [{**port, "targetPort": PORT}]}})
    api.create(
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices",
        {
            "metadata": {"name": "metrics", "labels": {"kubernetes.io/service-name": "metrics"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
            "ports": [{**port, "port": PORT}],
        },
    )
    path = "/apis/apiregistration.k8s.io/v1/apiservices"
    api.create(
        path,
        {
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": True,
                "service": {"name": "metrics", "namespace": "kube-system", "port": 443},
            },
        },
    )  # fmt: skip

    def available() -> bool:
        conditions = api.get(f"{path}/v1beta1.metrics.k8s.io").get("status", {}).get("conditions", [])
        return any(c["type"] == "Available" and c["status"] == "True" for c in conditions)

    until(available, "the API server reaches the metrics", 60)


def replicas(release: Release) -> int:
    return int(release.cluster.api.get(release.deployment())["spec"]["replicas"])


def test_the_hpa_controller_scales_up_and_down_under_trainers(release: Release) -> None:
    release.await_hosts(1)
    with release.train("--episodes", "1000000", "--concurrency", "4", "--pace", "0.3") as staying:
        with release.train("--episodes", "1000000", "--concurrency", "64", "--pace", "0.02") as busy:
            until(lambda: replicas(release) >= 2, "busy hosts are too few", 120)
            until(lambda: len(release.hosts()) >= 2, "the new ones are ready", 90)
            until(lambda: busy.line.get("whole", 0) > 64, "it plays", 60)
            gone = busy.stop()
        until(lambda: replicas(release) == 1 and len(release.hosts()) == 1, "idle hosts are too many", 200)
        after = staying.line["whole"]
        until(lambda: staying.line["whole"] > after + 4, "it plays on", 60)
        stayed = staying.stop()
    for sum_ in (gone, stayed):
        assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_
