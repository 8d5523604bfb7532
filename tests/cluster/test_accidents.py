"""Accidents of a cluster, and what its operators do to it, under a trainer: no episode fails, the fleet converges."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, until
from tests.cluster.release import Release, Trainer, small, uids

pytestmark = [
    pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(480),
]  # fmt: skip

SCALING = {
    "mode": "direct", "min": 2, "max": 6, "lookBack": 3, "idleAfter": 2, "bufferMin": 0, "bufferFactor": 0,
    "drainPatience": 60,
}  # fmt: skip
OUTAGE_SECONDS = 60.0


def values(**more: Any) -> dict[str, Any]:
    walk = {"slots": 8, "scaling": SCALING, "drain": {"deadline": 20, "checkpoint": 1}, **more}
    resources = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    return small(pools={"walk": walk}, autoscaler={"enabled": True, "replicas": 2, "resources": resources})


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Release:
    """A broker, two autoscalers, and two hosts of 8 slots at least."""
    made = Release(cluster, "accidents")
    made.install(values())
    until(lambda: len(made.hosts()) == 2, "two hosts", 90)
    return made


@pytest.fixture
def trainer(release: Release) -> Iterator[Trainer]:
    """One that plays 16 episodes at once, and at the end has lost none."""
    with release.train("--episodes", "1000000", "--concurrency", "16", "--pace", "0.2") as made:
        play_on(made, 16, "episodes are played")
        yield made
        play_on(made, 32, "it plays on")
        sum_ = made.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_


def play_on(trainer: Trainer, episodes: int, what: str) -> None:
    after = trainer.line.get("whole", 0)
    until(lambda: trainer.line.get("whole", 0) >= after + episodes, f"{what}: {trainer.line}", 120)


def settled(release: Release) -> bool:
    """As many Ready hosts as are asked for, no pod beside them, and no less than the floor."""
    wanted = release.cluster.api.get(release.deployment())["spec"]["replicas"]
    pods = release.cluster.pods(release.namespace, "envmesh.dev/pool=walk")
    return len(pods) == len(release.hosts()) == wanted >= 2


def node_of_a_host(release: Release) -> str:
    return str(release.hosts()[0]["spec"]["nodeName"])


def test_a_node_is_drained_through_the_eviction_api(release: Release, trainer: Trainer) -> None:
    node = node_of_a_host(release)
    started = time.monotonic()
    try:
        said = release.cluster.kubectl(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=200s", seconds=220
        )
        print(f"drained in {time.monotonic() - started:.1f} s\n{said}")
        assert not [pod for pod in release.hosts() if pod["spec"]["nodeName"] == node]
        until(lambda: settled(release), "the fleet is whole elsewhere", 120)
    finally:
        release.cluster.kubectl("uncordon", node)


def test_a_node_is_lost_at_once(release: Release, trainer: Trainer) -> None:
    node = node_of_a_host(release)
    lost = uids([pod for pod in release.hosts() if pod["spec"]["nodeName"] == node])
    release.cluster.lose_node(node)
    try:
        play_on(trainer, 32, "it plays without the lost hosts")
        until(
            lambda: not lost & uids(release.hosts()) and settled(release), "the fleet is whole elsewhere", 180
        )
    finally:
        release.cluster.start_node(int(node.removeprefix("node-")))


def test_the_api_server_is_away_for_a_minute(release: Release, trainer: Trainer) -> None:
    release.cluster.plane.stop_api_server()
    try:
        end = time.monotonic() + OUTAGE_SECONDS
        while time.monotonic() < end:
            play_on(trainer, 8, "nobody notices")
    finally:
        release.cluster.plane.start_api_server()
    until(lambda: settled(release), "the fleet is as it was", 120)
    with release.train("--episodes", "48", "--concurrency", "24", "--pace", "0.2") as another:
        until(lambda: len(release.hosts()) >= 5, "40 episodes at once want five hosts", 120)
        sum_ = another.finished(120)
    assert (sum_["whole"], sum_["wrong"], sum_["failed"]) == (48, 0, 0), sum_


def test_an_upgrade_is_rolled_back(release: Release, trainer: Trainer) -> None:
    before = uids(release.hosts())
    release.upgrade(values(podAnnotations={"rolled": "yes"}))
    until(lambda: not before & uids(release.hosts()) and settled(release), "the roll is over", 200)
    after = uids(release.hosts())
    release.cluster.helm("rollback", release.name, "--namespace", release.namespace, "--timeout", "120s")
    until(lambda: not after & uids(release.hosts()) and settled(release), "it is rolled back", 200)
    for pod in release.hosts():
        assert "rolled" not in pod["metadata"]["annotations"]
