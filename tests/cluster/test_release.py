"""One release over its life: installed with real Helm, trained on, rolled, broken and removed."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster, until
from tests.cluster.release import Release, small, uids

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Release:
    """Two hosts of 16 slots."""
    made = Release(cluster, "life")
    made.install(small())
    made.scale(2)
    made.await_hosts(2)
    return made


def test_helm_test_passes(release: Release) -> None:
    said = release.cluster.helm("test", release.name, "--namespace", release.namespace, "--timeout", "90s")
    assert "Phase:          Succeeded" in said or "Succeeded" in said, said


def test_a_trainer_plays_on_all_hosts(release: Release) -> None:
    with release.train("--episodes", "96", "--concurrency", "32", "--pace", "0.05") as trainer:
        sum_ = trainer.finished(90)
    assert (sum_["whole"], sum_["wrong"], sum_["failed"]) == (96, 0, 0), sum_
    assert sum_["hosts"] == 2


def test_a_roll_in_place_moves_every_episode(release: Release) -> None:
    before = uids(release.hosts())
    with release.train("--episodes", "1000000", "--concurrency", "12", "--pace", "0.2") as trainer:
        until(lambda: trainer.line.get("whole", 0) >= 12, "episodes are played", 60)
        release.upgrade(small(pools={"walk": {"podAnnotations": {"rolled": "yes"}}}))
        until(
            lambda: not before & uids(release.hosts()) and len(release.hosts()) == 2, "the roll is over", 150
        )
        after = trainer.line["whole"]
        until(lambda: trainer.line["whole"] > after + 12, "it plays on the new hosts", 60)
        sum_ = trainer.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_
    assert sum_["resumed"] > 0, sum_
    release.await_hosts(2)


def test_a_host_that_is_killed_costs_no_episode(release: Release) -> None:
    with release.train("--episodes", "1000000", "--concurrency", "12", "--pace", "0.2") as trainer:
        until(lambda: trainer.line.get("whole", 0) >= 12, "episodes are played", 60)
        victim = release.hosts()[0]["metadata"]
        release.cluster.api.delete(
            f"/api/v1/namespaces/{release.namespace}/pods/{victim['name']}", gracePeriodSeconds=0
        )
        until(
            lambda: victim["uid"] not in uids(release.hosts()) and len(release.hosts()) == 2,
            "it is replaced",
            60,
        )
        after = trainer.line["whole"]
        until(lambda: trainer.line["whole"] > after + 24, "it plays on", 60)
        sum_ = trainer.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_
    release.await_hosts(2)


@pytest.mark.slow
def test_the_broker_may_restart_under_a_trainer(release: Release) -> None:
    broker = "app.kubernetes.io/component=broker"
    with release.train("--episodes", "1000000", "--concurrency", "12", "--pace", "0.2") as trainer:
        until(lambda: trainer.line.get("whole", 0) >= 12, "episodes are played", 60)
        old = release.cluster.pods(release.namespace, broker)[0]["metadata"]
        release.cluster.api.delete(f"/api/v1/namespaces/{release.namespace}/pods/{old['name']}")
        until(
            lambda: {old["uid"]} != uids(release.cluster.ready(release.namespace, broker)) != set(),
            "a new broker",
            60,
        )
        after = trainer.line["whole"]
        until(lambda: trainer.line["whole"] > after + 24, "it plays on", 60)
        sum_ = trainer.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_


def test_uninstalling_is_refused_while_episodes_live(release: Release) -> None:
    with release.train("--episodes", "1000000", "--concurrency", "12", "--pace", "0.2") as trainer:
        until(lambda: trainer.line.get("whole", 0) >= 1, "episodes are played", 60)
        release.cluster.helm(
            "uninstall", release.name, "--namespace", release.namespace, "--timeout", "60s", fails=True
        )
        assert len(release.hosts()) == 2
        sum_ = trainer.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_
