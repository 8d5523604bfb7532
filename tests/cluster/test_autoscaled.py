"""The chart with its autoscaler: from nothing to what demand needs, and back, without an interrupted episode."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.cluster import Cluster, until
from tests.cluster.release import Release, small, uids
from tests.cluster.replicas import Replicas

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(500)]

SCALING = {"mode": "direct", "max": 6, "lookBack": 4, "idleAfter": 5, "bufferMin": 0, "drainPatience": 60}


def values(**more: Any) -> dict[str, Any]:
    walk = {"scaling": SCALING, "drain": {"deadline": 60, "checkpoint": 1}, **more}
    resources = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    return small(pools={"walk": walk}, autoscaler={"enabled": True, "resources": resources})


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Release:
    """Two autoscalers, a broker, and a pool of hosts with 16 slots each, to zero when idle."""
    made = Release(cluster, "scaled")
    made.install(values())
    return made


def replicas(release: Release, pool: str = "walk") -> int:
    return int(release.cluster.api.get(release.deployment(pool))["spec"]["replicas"])


def test_from_zero_to_demand_and_back_to_zero(release: Release) -> None:
    until(lambda: replicas(release) == 0, "an idle pool goes to zero", 90)
    until(lambda: not release.hosts(), "no host is left", 90)
    changes = Replicas(release.cluster.api, release.deployment()).changes
    with release.train("--episodes", "240", "--concurrency", "48", "--pace", "0.2") as trainer:
        until(lambda: replicas(release) >= 3, "48 episodes at once want three hosts", 60)
        until(lambda: len(release.hosts()) >= 3, "three hosts are ready", 90)
        sum_ = trainer.finished(200)
    assert (sum_["whole"], sum_["wrong"], sum_["failed"]) == (240, 0, 0), sum_
    until(lambda: replicas(release) == 0, "back to zero", 120)
    until(lambda: not release.cluster.pods(release.namespace, "envmesh.dev/pool=walk"), "all are gone", 120)
    raised = [count for _, count in changes]
    assert max(raised) <= 6
    assert raised[: raised.index(max(raised)) + 1] == sorted(raised[: raised.index(max(raised)) + 1])
    assert "others went than were meant" not in release.autoscaler_logs()


@pytest.mark.slow
def test_an_upgrade_changes_no_count_and_policy_needs_no_restart(release: Release) -> None:
    autoscalers = uids(release.cluster.ready(release.namespace, "app.kubernetes.io/component=autoscaler"))
    with release.train("--episodes", "1000000", "--concurrency", "40", "--pace", "0.3") as trainer:
        until(lambda: len(release.hosts()) >= 3, "three hosts are ready", 90)
        before, hosts = replicas(release), uids(release.hosts())
        release.upgrade(values(scaling={**SCALING, "min": 4}))
        assert replicas(release) >= before, "the upgrade itself lowered nothing"
        until(lambda: replicas(release) >= 4, "the new floor is held", 90)
        assert hosts <= uids(release.hosts()), "no host was rolled"
        now = uids(release.cluster.ready(release.namespace, "app.kubernetes.io/component=autoscaler"))
        assert now == autoscalers, "no autoscaler was restarted"
        release.upgrade(values())
        sum_ = trainer.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_


@pytest.mark.slow
def test_another_version_is_a_new_pool_beside_the_old(release: Release) -> None:
    other = [{"name": "walk", "version": "2", "target": "tests.cluster.worlds:Walk2"}]
    refused = release.upgrade(values(environments=other), fails=True)
    assert "walk was version 1" in refused
    with release.train("--episodes", "1000000", "--concurrency", "8", "--pace", "0.3") as trainer:
        until(lambda: trainer.line.get("whole", 0) > 0, "episodes are played", 120)
        gone = values()
        gone["pools"]["walk"] = None
        refused = release.upgrade(gone, fails=True)
        assert "upgrade-check" in refused or "pre-upgrade" in refused, refused
        both = values(retiring=True)
        both["pools"]["walk2"] = {**values()["pools"]["walk"], "environments": other}
        brokers = uids(release.cluster.ready(release.namespace, "app.kubernetes.io/component=broker"))
        release.upgrade(both)
        until(lambda: replicas(release, "walk2") > 0, "what is new is demand for the pool beside", 120)
        until(lambda: replicas(release) == 0, "the retired pool empties under a trainer that plays on", 180)
        now = uids(release.cluster.ready(release.namespace, "app.kubernetes.io/component=broker"))
        assert now == brokers, "no broker was restarted"
        sum_ = trainer.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_
    with release.train("--environment", "walk@1", "--episodes", "1", "--concurrency", "1") as trainer:
        sum_ = trainer.finished(60)
    assert "pool walk is retiring; there is walk@2" in str(sum_["failures"]), sum_
    with release.train(
        "--environment", "walk@2", "--episodes", "16", "--concurrency", "8", "--pace", "0.1"
    ) as trainer:
        sum_ = trainer.finished(150)
    assert (sum_["whole"], sum_["failed"]) == (16, 0), sum_
    only = values()
    only["pools"]["walk"] = None
    only["pools"]["walk2"] = both["pools"]["walk2"]
    release.upgrade(only)
    assert release.cluster.api.find(release.deployment()) is None
