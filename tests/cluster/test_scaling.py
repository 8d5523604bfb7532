"""The autoscaler on a real control plane: its pods are real hosts, its trainers play real episodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, until
from tests.cluster.scaled_pool import ScaledPool

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(280)]


@pytest.fixture
def pool(cluster: Cluster, tmp_path: Path) -> Iterator[ScaledPool]:
    made = ScaledPool(cluster, tmp_path)
    with made.running():
        yield made


def test_from_zero_on_demand_and_back_to_zero_without_an_interrupted_episode(pool: ScaledPool) -> None:
    with pool.trainer() as trainer:
        opened = trainer.ask("open 10")
        when, replicas = pool.changes[-1] if len(pool.changes) == 1 else pool.changes[0]
        took = when - opened["started"]
        print(f"{took:.3f} s from Acquire to replicas {replicas}; slots after {opened['seconds']:.1f} s")
        assert replicas == 3
        assert when - opened["started"] < 1.0
        outside = ("pods", "deployments", "deployments/scale", "nodes")
        calls = pool.calls(*outside)
        stepped = trainer.ask("step 300")  # dozens of episodes
        assert not stepped["failed"]
        assert pool.calls(*outside) == calls, "no call for an episode"
        assert not trainer.ask("close 8")["failed"]
        until(lambda: pool.replicas() < 3, "one goes", 60)
        assert not trainer.ask("step 50")["failed"]
        assert not trainer.ask("close 2")["failed"]
        until(lambda: pool.replicas() == 0, "to zero", 60)
        until(lambda: not pool.pods(), "no pod is left", 60)
    assert "others went" not in pool.log()
    print(pool.metrics().get("envmesh_scale_in_drain_duration_seconds_sum"))


@pytest.mark.slow
def test_a_cordoned_node_is_emptied_and_its_hosts_may_then_be_evicted(
    pool: ScaledPool, cluster: Cluster
) -> None:
    with pool.trainer() as trainer:
        trainer.ask("open 4")
        (pod,) = pool.pods()
        node = pod["spec"]["nodeName"]
        cluster.api.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": True}})
        try:
            until(lambda: pool.replicas() == 2, "another is asked for", 30)
            until(lambda: len(cluster.ready("default", "pool=cartpole")) == 2, "it is ready", 60)
            assert not trainer.ask("close 4")["failed"]
            until(
                lambda: pod["metadata"]["uid"] not in [p["metadata"]["uid"] for p in pool.pods()],
                "it goes",
                60,
            )
        finally:
            cluster.api.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": None}})


@pytest.mark.slow
def test_another_leads_when_the_leader_ends_or_dies(pool: ScaledPool) -> None:
    first, second = pool.autoscalers[0], pool.start_autoscaler()
    until(lambda: pool.metrics(0)["envmesh_leader"] == 1.0, "the first leads", 20)
    assert pool.metrics(1)["envmesh_leader"] == 0.0
    first.process.terminate()  # gives its Lease back
    until(lambda: pool.metrics(1)["envmesh_leader"] == 1.0, "the second leads", 4)
    third = pool.start_autoscaler()
    second.process.kill()
    until(lambda: pool.metrics(2)["envmesh_leader"] == 1.0, "the third leads", 15)
    assert third.process.poll() is None
    with pool.trainer() as trainer:
        assert not trainer.ask("open 2")["failed"]


@pytest.mark.slow
def test_an_operator_pauses_a_pool_by_annotation(pool: ScaledPool, cluster: Cluster) -> None:
    path = f"/apis/apps/v1/namespaces/default/deployments/{pool.name}"
    cluster.api.patch(path, {"metadata": {"annotations": {"envmesh.dev/dry-run": "true"}}})
    with pool.trainer() as trainer:
        trainer.tell("open 4")
        until(lambda: '"hosts": 1' in pool.log(), "it says what it would do", 20)
        assert pool.replicas() == 0
        cluster.api.patch(path, {"metadata": {"annotations": {"envmesh.dev/dry-run": None}}})
        assert not trainer.hear()["failed"]
        assert pool.replicas() == 1


@pytest.mark.slow
def test_a_quota_that_refuses_hosts_is_seen(pool: ScaledPool, cluster: Cluster) -> None:
    quotas, refused = (
        "/api/v1/namespaces/default/resourcequotas",
        f'envmesh_pool_hosts_refused{{pool="{pool.name}"}}',
    )
    cluster.api.create(quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    try:
        until(lambda: "hard" in cluster.api.get(f"{quotas}/none").get("status", {}), "it counts", 20)
        with pool.trainer() as trainer:
            trainer.tell("open 4")
            until(lambda: pool.metrics().get(refused) == 1.0, "the refusal is seen", 30)
            assert "exceeded quota" in pool.log()
            cluster.api.delete(f"{quotas}/none")
            assert not trainer.hear()["failed"]
            assert pool.metrics()[refused] == 0.0
    finally:
        if cluster.api.find(f"{quotas}/none"):
            cluster.api.delete(f"{quotas}/none")


@pytest.mark.slow
def test_a_reservation_brings_hosts_before_anybody_asks(pool: ScaledPool) -> None:
    with pool.trainer() as trainer:
        trainer.ask("reserve 8 0")
        until(lambda: pool.replicas() == 2, "hosts are asked for", 20)
