"""The short form, which CI runs on every change: one cluster, one release, and on it what must never break.

Installed with real Helm; its accounts' rights; its objects judged by the API server; 0 to 8 hosts on demand and back to
0; a roll in place and a killed host under a trainer. No episode fails in any of it, and none forks.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.chart import judge
from tests.chart.matrix import MATRIX
from tests.chart.rendering import render
from tests.cluster.cluster import Cluster, until
from tests.cluster.release import Release, Trainer, small, uids

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(240)]

SCALING = {
    "mode": "direct", "max": 8, "lookBack": 3, "idleAfter": 2, "bufferMin": 0, "bufferFactor": 0, "drainPatience": 60,
}  # fmt: skip
MATRIX_SHORT = ("defaults", "service accounts", "keda")


def values(**more: Any) -> dict[str, Any]:
    walk = {"slots": 4, "scaling": SCALING, "drain": {"deadline": 20, "checkpoint": 1}, **more}
    resources = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    return small(pools={"walk": walk}, autoscaler={"enabled": True, "replicas": 1, "resources": resources})


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Release:
    """A broker, one autoscaler, and a pool of up to 8 hosts with 4 slots each."""
    made = Release(cluster, "short")
    started = time.monotonic()
    made.install(values())
    print(f"installed in {time.monotonic() - started:.1f} s")
    return made


def replicas(release: Release) -> int:
    return int(release.cluster.api.get(release.deployment())["spec"]["replicas"])


def play_on(trainer: Trainer, episodes: int, what: str) -> None:
    """Wait until so many more episodes are whole."""
    after = trainer.line.get("whole", 0)
    until(lambda: trainer.line.get("whole", 0) >= after + episodes, what, 90)


def test_each_account_may_do_what_it_must_and_nothing_else(release: Release) -> None:
    plane, namespace = release.cluster.plane, release.namespace
    everybody = judge.rights(judge.caller(plane, namespace, "default"), namespace)
    expected = judge.expected_rights("envmesh", ["walk"])
    expected["envmesh-broker"] = set()  # it reviews tokens only where it is told to
    for account, wanted in expected.items():
        assert judge.rights(judge.caller(plane, namespace, account), namespace) - everybody == wanted, account


def test_the_api_server_takes_every_object(release: Release) -> None:
    plane = release.cluster.plane
    plane.api.create("/api/v1/namespaces", {"metadata": {"name": "rl"}})
    judge.define_kinds(plane)
    for name in MATRIX_SHORT:
        wrong = judge.refused(plane, render(MATRIX[name]))
        assert not wrong, "\n".join(wrong)


def test_from_zero_to_eight_hosts(release: Release) -> None:
    until(lambda: replicas(release) == 0 and not release.hosts(), "an idle pool goes to zero", 60)
    asked = time.monotonic()
    with release.train("--episodes", "96", "--concurrency", "32", "--pace", "0.1") as trainer:
        until(lambda: replicas(release) == 8, "32 episodes at once want 8 hosts", 60)
        until(lambda: len(release.hosts()) == 8, "8 hosts are ready", 90)
        print(f"8 hosts after {time.monotonic() - asked:.1f} s")
        sum_ = trainer.finished(120)
    assert (sum_["whole"], sum_["wrong"], sum_["failed"]) == (96, 0, 0), sum_
    said = release.cluster.kubectl("describe", "deployment", "envmesh-pool-walk", "-n", release.namespace)
    assert "ScaledUp" in said, said
    assert "slots of demand" in said, said


def test_a_roll_in_place_and_a_kill_under_a_trainer(release: Release) -> None:
    with release.train("--episodes", "1000000", "--concurrency", "8", "--pace", "0.1") as trainer:
        play_on(trainer, 8, "episodes are played")
        until(lambda: replicas(release) == 2 == len(release.hosts()), "what 8 episodes need is left", 90)
        before = uids(release.hosts())
        release.upgrade(values(podAnnotations={"rolled": "yes"}))
        until(
            lambda: not before & uids(release.hosts()) and len(release.hosts()) >= 2, "the roll is over", 120
        )
        play_on(trainer, 8, "it plays on the new hosts")
        victim = release.hosts()[0]["metadata"]
        release.cluster.api.delete(
            f"/api/v1/namespaces/{release.namespace}/pods/{victim['name']}", gracePeriodSeconds=0
        )
        until(
            lambda: victim["uid"] not in uids(release.hosts()) and len(release.hosts()) >= 2,
            "it is replaced",
            60,
        )
        play_on(trainer, 16, "it plays on without the killed host")
        sum_ = trainer.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_
    assert sum_["resumed"] > 0, sum_


def test_back_to_zero(release: Release) -> None:
    until(lambda: replicas(release) == 0, "back to zero", 90)
    until(lambda: not release.cluster.pods(release.namespace, "envmesh.dev/pool=walk"), "all are gone", 60)
    assert "others went than were meant" not in release.autoscaler_logs()
