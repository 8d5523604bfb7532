"""The test cluster itself: is the node stand-in a node, as far as the tests lean on it?"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(300)]

DEPLOYMENTS, PODS = "/apis/apps/v1/namespaces/default/deployments", "/api/v1/namespaces/default/pods"


def container(script: str, **more: Any) -> dict[str, Any]:
    return {"name": "main", "image": "test", "command": ["sh", "-c", script], **more}


def pod(name: str, made: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"containers": [made], "terminationGracePeriodSeconds": 5, **spec},
    }


def phase(cluster: Cluster, name: str) -> str:
    found = cluster.api.find(f"{PODS}/{name}") or {}
    return str(found.get("status", {}).get("phase", "gone"))


def test_a_deployment_is_rolled_out_and_reached_by_the_name_of_its_service(cluster: Cluster) -> None:
    server = container(
        "exec python -m http.server 8080",
        workingDir="/data",
        securityContext={
            "runAsUser": 65532, "runAsGroup": 65532, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
        },
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
        readinessProbe={"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1},
    )  # fmt: skip
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "containers": [server],
            "volumes": [{"name": "data", "configMap": {"name": "kube-root-ca.crt"}}],
        },
    }
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    cluster.api.create(DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": spec})
    port = {"port": 80, "targetPort": 8080}
    cluster.api.create(
        "/api/v1/namespaces/default/services",
        {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [port]}},
    )
    until(lambda: len(cluster.ready("default", "app=web")) == 2, "two pods are ready", 60)

    def page() -> str:
        look = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=2).read().decode())"
        ask = cluster.inside(sys.executable, "-c", look, "http://web.default.svc.cluster.local/")
        return subprocess.run(ask, capture_output=True, text=True, timeout=10, check=False).stdout

    assert "ca.crt" in until(page, "the Service answers", 30)


def test_a_container_is_confined_as_its_security_context_says(cluster: Cluster) -> None:
    script = "id -u; touch /x 2>&1; touch /tmp/x && echo wrote; grep -E 'CapE|NoNew' /proc/1/status; echo parent $PPID"
    made = container(
        script,
        securityContext={
            "runAsUser": 1234, "runAsGroup": 1234, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
        },
        volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}],
    )  # fmt: skip
    cluster.api.create(
        PODS, pod("confined", made, restartPolicy="Never", volumes=[{"name": "tmp", "emptyDir": {}}])
    )
    until(lambda: phase(cluster, "confined") == "Succeeded", "it has run", 60)
    said = cluster.logs("confined")
    assert "1234" in said
    assert "Read-only file system" in said
    assert "wrote" in said
    assert "CapEff:\t0000000000000000" in said
    assert "NoNewPrivs:\t1" in said
    assert "parent 0\n" in said


def test_sigterm_comes_first_and_the_pod_leaves_when_it_has_ended(cluster: Cluster) -> None:
    made = container("trap 'echo leaving; exit 0' TERM; echo begun; while :; do sleep 0.1; done")
    cluster.api.create(PODS, pod("polite", made))
    until(lambda: "begun" in cluster.logs("polite"), "it runs", 60)
    cluster.api.delete(f"{PODS}/polite")
    until(lambda: phase(cluster, "polite") == "gone", "it is gone", 30)
    assert "leaving" in cluster.logs("polite")


@pytest.mark.slow
def test_too_much_memory_ends_a_container_and_it_starts_again(cluster: Cluster) -> None:
    made = container(
        "exec python -c 'b = bytearray(200 << 20); input()' < /dev/zero",
        resources={"limits": {"memory": "64Mi"}},
    )
    cluster.api.create(PODS, pod("greedy", made))

    def last() -> dict[str, Any]:
        status = (cluster.api.find(f"{PODS}/greedy") or {}).get("status", {})
        found: dict[str, Any] = (status.get("containerStatuses") or [{}])[0]
        return found if found.get("restartCount", 0) >= 1 and found.get("lastState") else {}

    found = until(last, "it was restarted", 60)
    assert found["lastState"]["terminated"]["reason"] == "OOMKilled"
    cluster.api.delete(f"{PODS}/greedy", gracePeriodSeconds=0)


@pytest.mark.slow
def test_the_pods_of_a_lost_node_are_made_again_elsewhere(cluster: Cluster) -> None:
    before = {p["metadata"]["uid"]: p["spec"]["nodeName"] for p in cluster.ready("default", "app=web")}
    lost = next(iter(before.values()))
    cluster.lose_node(lost)
    until(
        lambda: (now := cluster.ready("default", "app=web"))
        and len(now) == 2 and all(p["spec"]["nodeName"] != lost for p in now),
        "two ready pods on other nodes", 90,
    )  # fmt: skip
    cluster.start_node(int(lost.removeprefix("node-")))
    until(lambda: not cluster.api.get(f"/api/v1/nodes/{lost}")["spec"].get("taints"), "the node is back", 60)
