"""A mesh that scales itself, scraped by a real Prometheus: what only an autoscaler exports brings data too."""

from __future__ import annotations

import asyncio

import pytest

import envmesh
from envmesh_autoscaler.demand import PoolPolicy
from envmesh_cli.local_mesh import LocalMesh
from tests.monitoring.real_prometheus import prometheus
from tests.monitoring.rule_files import ALERTS, expressions, needs_prometheus, of_autoscaler
from tests.monitoring.test_metrics_page import queries
from tests.monitoring.test_real_prometheus import eventually, plan

pytestmark = [
    needs_prometheus,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("real-prometheus"),
]

POLICY = PoolPolicy(slots=4, max_hosts=2, buffer_min=0, buffer_factor=0.0, look_back=2.0, idle_after=1.0)

FAULTS = {
    "EnvmeshHostsNotAsWanted": "two hosts are wanted, and none has started yet",
    "EnvmeshPoolAtMaximum": "more is asked for than two hosts have",
}
"""The alerts that must fire, and what each is about."""


async def test_what_only_an_autoscaler_exports_brings_data(tmp_path):
    pools = [plan("graded", "Graded", slots="4", lease_idle="500ms")]
    async with (
        LocalMesh(pools, autoscale=POLICY) as local,
        envmesh.connect(local.address) as mesh,
        prometheus(tmp_path, local.metrics, ALERTS) as here,
        asyncio.TaskGroup() as group,
    ):

        async def waves() -> None:
            """Three hosts' worth of episodes, then none until the hosts are gone."""
            while True:
                async for _ in mesh.rollouts(
                    "graded", lambda observation: "go", episodes=200, concurrency=12
                ):
                    pass
                await eventually(nobody, 20)

        async def nobody() -> bool:
            return not local.hosts

        asked = {
            where: expression for where, expression in expressions().items() if of_autoscaler(expression)
        }
        asked |= {query: query for query in queries() if of_autoscaler(query) and " > 0" not in query}
        assert len(asked) > 15

        fired: set[str] = set()

        async def each_answered() -> bool:
            """Some ask for what is so only in a wave, or only between two."""
            fired.update(await here.firing())
            for where, expression in list(asked.items()):
                if await here.query(expression):
                    del asked[where]
            return not asked and fired >= FAULTS.keys()

        playing = group.create_task(waves())
        assert await eventually(each_answered, 90), f"without data: {list(asked)}; fired: {sorted(fired)}"
        playing.cancel()
        await local.drain(1.0)  # and with it the autoscaler

        async def nobody_leads() -> bool:
            return "EnvmeshNoLeader" in await here.firing()

        assert await eventually(nobody_leads, 30), f"firing: {await here.firing()}"
