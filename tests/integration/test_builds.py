"""A change of build under running episodes: one that does not repeat what was ends none, and raises an alarm."""

import asyncio
import logging
import os
import signal

import grpc
import pytest

import envmesh
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.local_mesh import LocalMesh
from envmesh_cli.pools import PoolPlan
from tests.integration.closed_parts import until

pytestmark = pytest.mark.timeout(120)

SEEDS = list(range(12))
WALK = '''
"""Walks; a build of it."""
import random, time
import envmesh

@envmesh.environment(recovery="replay", isolation="inline")
class Walk:
    def reset(self, *, seed=None, options=None):
        self.dice, self.steps = random.Random(seed), 0
        return 0, {}

    def step(self, action):
        time.sleep(0.005)
        self.steps += 1
        return self.dice.randint(0, 9) FACTOR, 1.0, self.steps == 80, False, {}
'''


class Player:
    """A policy; ``under_way`` is set once every episode has done more steps than the two builds share."""

    def __init__(self) -> None:
        self.asked = 0
        self.under_way = asyncio.Event()

    def __call__(self, observation) -> int:
        self.asked += 1
        if self.asked == 10 * len(SEEDS):
            self.under_way.set()
        return int(observation)


async def play(mesh: envmesh.Mesh, policy: Player) -> dict[int | None, envmesh.Trajectory]:
    rollouts = mesh.rollouts("walk", policy, seeds=SEEDS, concurrency=len(SEEDS))
    return {trajectory.seed: trajectory async for trajectory in rollouts}


async def drain(local: LocalMesh, pool: str, *, take_back: bool = False) -> None:
    """Drain the pool's host, or take that back; the host itself has said so afterwards."""
    async with grpc.aio.insecure_channel(local.address) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)

        async def host() -> fleet_pb2.HostStatus:
            fleet = (await stub.GetFleet(fleet_pb2.GetFleetRequest())).fleet
            (found,) = (each for each in fleet.hosts if each.identity.pool == pool)
            return found

        async def takes_leases() -> bool:
            return (await host()).state == fleet_pb2.HOST_STATE_READY

        async def takes_none() -> bool:
            return not await takes_leases()

        host_id = (await host()).identity.host_id
        if take_back:
            await stub.CancelDrain(fleet_pb2.CancelDrainRequest(host_id=host_id))
        else:
            await stub.Drain(fleet_pb2.DrainRequest(host_id=host_id))
        await until(takes_leases if take_back else takes_none)


@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_a_build_that_diverges_ends_no_episode_and_raises_one_alarm(tmp_path, caplog, end):
    plans = []
    for pool, factor in (("old", ""), ("new", "+ self.steps // 3")):
        (tmp_path / pool).mkdir()
        (tmp_path / pool / "walkers.py").write_text(WALK.replace("FACTOR", factor))
        settings = {"PYTHONPATH": str(tmp_path / pool), "ENVMESH_HOST_DRAIN_DEADLINE": "60"}
        plans.append(PoolPlan(name=pool, targets=("walk=walkers:Walk",), settings=settings))
    async with LocalMesh(plans) as local, envmesh.connect(local.address, liveness_window=2.0) as mesh:
        await drain(local, "new")
        undisturbed = await play(mesh, Player())
        with caplog.at_level(logging.INFO, logger="envmesh.client"):
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                policy = Player()
                playing = group.create_task(play(mesh, policy), name="playing")
                await policy.under_way.wait()
                await drain(local, "new", take_back=True)
                (host,) = (child for child in local.hosts if child.name.startswith("old"))
                assert host.process_id is not None
                os.kill(host.process_id, signal.SIGKILL if end == "kill" else signal.SIGTERM)
        disturbed = playing.result()
        assert {seed: trajectory.failure for seed, trajectory in disturbed.items()} == dict.fromkeys(SEEDS)
        assert {seed: each.digests for seed, each in disturbed.items()} == {
            seed: each.digests for seed, each in undisturbed.items()
        }
        alarms = [record for record in caplog.records if "does not repeat what build" in record.getMessage()]
        assert len(alarms) == 1
        assert alarms[0].levelno == logging.ERROR
        assert mesh.statistics.divergences >= 1
