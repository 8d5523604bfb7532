"""`helm install` with default values, and 1,000 episodes at once: from nothing to what they need, and back."""

from __future__ import annotations

import time

import pytest

from tests.cluster.cluster import Cluster, until
from tests.cluster.release import Release
from tests.cluster.replicas import Replicas

pytestmark = [
    pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900),
]  # fmt: skip
EPISODES, CONCURRENCY = 4_000, 1_000
POOL = "cartpole"


def test_a_thousand_episodes_at_once_on_default_values(cluster: Cluster) -> None:
    release = Release(cluster, "rl")
    release.install({})
    replicas = Replicas(cluster.api, release.deployment(POOL))
    until(lambda: replicas.changes, "the watch has begun", 10)
    until(lambda: replicas.changes[-1][1] == 0, "what nobody has asked for goes", 240, every=1.0)
    until(lambda: not release.cluster.pods(release.namespace, f"envmesh.dev/pool={POOL}"), "none is left", 90)
    with release.train(
        "--environment", POOL, "--episodes", str(EPISODES), "--concurrency", str(CONCURRENCY), "--pace", "1"
    ) as trainer:
        until(lambda: trainer.line, "the trainer has begun", 30)
        until(lambda: replicas.changes[-1][1] > 0, "hosts are asked for", 30)
        first = trainer.lines[0]["at"]
        asked = next(change for change in replicas.changes if change[0] > first)
        until(lambda: len(release.hosts(POOL)) == replicas.changes[-1][1], "all are ready", 240)
        ready = time.time()
        hosts = len(release.hosts(POOL))
        sum_ = trainer.finished(500)
    print(
        f"{asked[0] - first:.2f} s from the trainer's start to {asked[1]} replicas, {ready - first:.0f} s until all "
        f"were ready; {sum_['peak']} episodes at once on {hosts} hosts"
    )
    assert (sum_["whole"], sum_["wrong"], sum_["failed"]) == (EPISODES, 0, 0), sum_
    assert sum_["peak"] == CONCURRENCY
    assert asked[0] - first < 1.0
    until(lambda: replicas.changes[-1][1] == 0, "back to the floor", 300, every=1.0)
    until(lambda: not release.cluster.pods(release.namespace, f"envmesh.dev/pool={POOL}"), "all are gone", 90)
    assert "others went than were meant" not in release.autoscaler_logs()
    print(f"replicas over time: {[(round(at - first), count) for at, count in replicas.changes]}")
    assert replicas.changes[0][0] < first
