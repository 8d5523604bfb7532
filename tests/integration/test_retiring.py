"""A pool that is told to retire under running episodes: they play on, what is new goes beside, nothing restarts."""

import asyncio
import json
import os
import signal
from collections.abc import Callable

import grpc
import pytest

import envmesh
from envmesh.errors import InvalidRequest
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.local_mesh import LocalMesh
from envmesh_cli.pools import PoolPlan
from tests.integration.closed_parts import until

pytestmark = pytest.mark.timeout(120)

WALK = '''
"""Walks by dice."""
import random
import envmesh

@envmesh.environment(recovery="replay", isolation="inline")
class Walk:
    def reset(self, *, seed=None, options=None):
        self.dice, self.place = random.Random(seed), 0
        return 0, {}

    def step(self, action):
        self.place += self.dice.randint(0, 9)
        return self.place, 1.0, self.place > 400, False, {}
'''


def declare(path, *retiring: str) -> None:
    """Write the pools file, as a mounted ConfigMap is renewed: whole."""
    pools = [
        {"name": name, "environments": [f"walk@{version}"], "retiring": name in retiring}
        for name, version in (("old", 1), ("new", 2))
    ]
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps(pools))
    fresh.replace(path)


def plan(name: str, version: int, hosts: int, path) -> PoolPlan:
    settings = {"PYTHONPATH": str(path)}
    return PoolPlan(name=name, targets=(f"walk@{version}=walkers:Walk",), hosts=hosts, settings=settings)


async def holds(local: LocalMesh, what: Callable[[int, int], bool]) -> bool:
    """Whether something is true of the old pool's slots on hosts that are heard: those in use, and those idle under a
    lease."""
    async with grpc.aio.insecure_channel(local.address) as channel:
        answer = await fleet_pb2_grpc.FleetServiceStub(channel).GetFleet(fleet_pb2.GetFleetRequest())
    heard = [host for host in answer.fleet.hosts if host.state != fleet_pb2.HOST_STATE_SILENT]
    hosts = [host for host in heard if host.identity.pool == "old"]
    return what(sum(host.in_use for host in hosts), sum(host.idle for host in hosts))


async def short_rollouts(mesh: envmesh.Mesh, environment: str) -> set[str]:
    """The versions that four new episodes are played on."""
    rollouts = mesh.rollouts(environment, lambda observation: 0, episodes=4, concurrency=4)
    played = [trajectory async for trajectory in rollouts]
    assert [trajectory.failure for trajectory in played] == [None] * 4
    return {trajectory.version for trajectory in played}


async def test_running_episodes_play_on_and_move_there_and_new_ones_begin_beside(tmp_path):
    (tmp_path / "walkers.py").write_text(WALK)
    pools = tmp_path / "pools.json"
    declare(pools, "new")
    plans = [plan("old", 1, 2, tmp_path), plan("new", 2, 1, tmp_path)]
    broker = {"ENVMESH_BROKER_POOLS_FILE": str(pools)}
    async with (
        LocalMesh(plans, broker_settings=broker) as local,
        envmesh.connect(local.address, liveness_window=2.0) as mesh,
    ):
        assert await short_rollouts(mesh, "walk") == {"1"}
        async with mesh.episode("walk", seed=7) as undisturbed:
            expected = [(await undisturbed.step(0)).observation for _ in range(40)]
        async with mesh.episode("walk", seed=7) as episode:
            seen = [(await episode.step(0)).observation for _ in range(10)]
            await until(lambda: holds(local, lambda in_use, idle: in_use == 1 and idle > 0))
            declare(pools, "old")
            await until(lambda: holds(local, lambda in_use, idle: (in_use, idle) == (1, 0)))
            seen += [(await episode.step(0)).observation for _ in range(10)]
            with pytest.raises(InvalidRequest, match="pool old is retiring; there is walk@2") as refused:
                async with mesh.episode("walk@1"):
                    pass
            assert refused.value.reason == "VERSION_RETIRING"
            assert await short_rollouts(mesh, "walk") == {"2"}
            address = episode.place[0].connection.address
            (home,) = (child for child in local.hosts if child.address == address)
            assert home.process_id is not None
            os.kill(home.process_id, signal.SIGKILL)
            async with asyncio.timeout(60):
                seen += [(await episode.step(0)).observation for _ in range(20)]
            assert seen == expected
            assert sum(mesh.statistics.resumes.values()) == 1
        await until(lambda: holds(local, lambda in_use, idle: (in_use, idle) == (0, 0)))
