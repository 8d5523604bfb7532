"""KEDA mode: the real operator and metrics adapter ask our autoscaler, and the real HPA writes the replicas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, until
from tests.cluster.keda import Keda, why_no_keda
from tests.cluster.release import Release, small

pytestmark = [
    pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(480),
]  # fmt: skip


def values() -> dict[str, Any]:
    scaling = {
        "mode": "keda", "max": 6, "lookBack": 4, "idleAfter": 5, "bufferMin": 0, "bufferFactor": 0, "drainPatience": 60,
        "keda": {"cooldownPeriod": 2},
    }  # fmt: skip
    resources = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    pool = {"slots": 8, "scaling": scaling, "drain": {"deadline": 20, "checkpoint": 1}}
    return small(pools={"walk": pool}, autoscaler={"enabled": True, "replicas": 2, "resources": resources})


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    if reason := why_no_keda():
        pytest.skip(reason)
    with Keda(cluster):
        made = Release(cluster, "by-keda")
        made.install(values())
        yield made


def replicas(release: Release) -> int:
    return int(release.cluster.api.get(release.deployment())["spec"]["replicas"])


def test_from_zero_by_keda_and_back_to_zero_without_an_interrupted_episode(release: Release) -> None:
    until(lambda: replicas(release) == 0 and not release.hosts(), "an idle pool goes to zero", 120)
    with release.train("--episodes", "160", "--concurrency", "24", "--pace", "0.2") as trainer:
        until(lambda: replicas(release) == 3, "24 episodes at once want three hosts", 90)
        until(lambda: len(release.hosts()) == 3, "three hosts are ready", 90)
        sum_ = trainer.finished(200)
    assert (sum_["whole"], sum_["wrong"], sum_["failed"]) == (160, 0, 0), sum_
    until(lambda: replicas(release) == 0, "back to zero", 120)
    until(lambda: not release.cluster.pods(release.namespace, "envmesh.dev/pool=walk"), "all are gone", 90)
    hpas = f"/apis/autoscaling/v2/namespaces/{release.namespace}/horizontalpodautoscalers"
    assert [each["metadata"]["name"] for each in release.cluster.api.items(hpas)] == [
        "keda-hpa-envmesh-pool-walk"
    ]


def test_a_pool_shrinks_under_a_trainer_that_plays_on(release: Release) -> None:
    with release.train("--episodes", "1000000", "--concurrency", "8", "--pace", "0.2") as staying:
        with release.train("--episodes", "1000000", "--concurrency", "24", "--pace", "0.2") as going:
            until(lambda: len(release.hosts()) == 4, "32 episodes at once want four hosts", 120)
            until(lambda: going.line.get("whole", 0) >= 24, "episodes are played", 90)
            gone = going.stop()
        until(lambda: replicas(release) == 1 == len(release.hosts()), "one host is left", 180)
        after = staying.line["whole"]
        until(lambda: staying.line["whole"] > after + 8, "it plays on", 60)
        stayed = staying.stop()
    for sum_ in (gone, stayed):
        assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_
