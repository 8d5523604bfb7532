"""A pool of 1,000 hosts on 100 nodes: up, held, drained and down; and what that costs the Kubernetes API.

Control plane, scheduler, autoscaler and broker are real; nodes and pods are kwok's, and behind each pod is a simulated
host that is registered over real gRPC.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.assets import CLUSTER, ROOT, why_not
from tests.cluster.cluster import Cluster, until
from tests.cluster.control_plane import ADMIN_TOKEN
from tests.cluster.kwok import start_kwok
from tests.cluster.scaled_pool import BROKER, Process, ScaledPool

pytestmark = [
    pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600),
]  # fmt: skip
HOSTS, SLOTS, NODES = 1_000, 4, 100
POLICY = {
    "max_hosts": HOSTS, "slots": SLOTS, "buffer_min": 0, "buffer_factor": 0, "look_back": 10, "idle_after": 5,
}  # fmt: skip

WRITTEN = ("pods", "deployments", "deployments/scale")


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ScaledPool]:
    """A pool of up to 1,000 hosts, to zero when idle."""
    if reason := why_not((*CLUSTER, "kwok")):
        pytest.skip(reason)
    with Cluster(tmp_path / "cluster", nodes=0) as cluster:
        kwok = start_kwok(cluster, tmp_path, NODES)
        try:
            made = ScaledPool(cluster, tmp_path, POLICY)
            with made.running():
                yield made
        finally:
            kwok.stop()


def test_up_held_drained_and_down(pool: ScaledPool, tmp_path: Path) -> None:
    hosts = Process(
        pool.cluster, tmp_path / "hosts.log", sys.executable, "-m", "tests.cluster.simulated_hosts", "--broker", BROKER,
        "--pool", pool.name, "--slots", str(SLOTS), "--token", ADMIN_TOKEN,
        "--authority", str(pool.cluster.plane.authority.certificate), environ={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        play(pool, hosts)
    finally:
        hosts.end(kill=True)


def play(pool: ScaledPool, hosts: Process) -> None:
    """One request for 4,000 slots, episodes one after another in them, and the end of them all."""
    begun = pool.calls()
    up = hosts.ask(f"acquire {HOSTS * SLOTS}")
    when, asked = pool.changes[0]
    print(
        f"{when - up['started']:.2f} s from Acquire to {asked} replicas, {up['seconds']:.0f} s to {up['leases']} leases"
    )
    assert [count for _, count in pool.changes] == [HOSTS], "from 0 to 1,000 in one write"
    assert when - up["started"] < 1.0
    raised, written = pool.calls(), pool.calls(*WRITTEN)
    churned = sum(hosts.ask("churn 400")["leases"] for _ in range(5))
    played = pool.calls(*WRITTEN) - written
    down = hosts.ask("release")
    assert down["slots"] == HOSTS * SLOTS
    until(lambda: pool.replicas() == 0, "to zero", 300, every=1.0)
    until(lambda: not pool.pods(), "no pod is left", 120, every=1.0)
    lowered = pool.calls() - raised
    until(
        lambda: sum(hosts.ask("state")["went"].values()) == HOSTS, "the hosts have heard it", 30
    )  # by a watch
    went = hosts.ask("state")["went"]
    counts = [count for _, count in pool.changes]
    print(f"autoscaler: {pool.autoscalers[0].most_resident_bytes() >> 20} MiB resident at most")
    print(
        f"calls: {raised - begun:.0f} up, {played:.0f} for {churned} leases, {lowered:.0f} down; replicas {counts}"
    )
    print(sorted((name, value) for name, value in pool.metrics().items() if "kubernetes_calls" in name))
    assert went == {"HOST_STATE_SEALED": HOSTS}, went
    assert max(counts) == HOSTS
    assert counts == sorted(counts, reverse=True)
    assert "others went" not in pool.log()
    assert raised - begun < 200, "the way up is one write and what watches cost"
    assert played == 0, "no call for an episode"
    assert lowered < 2 * HOSTS + 300, "a mark when a drain starts, and one when it is sealed"
