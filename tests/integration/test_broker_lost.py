"""The broker dies in the middle of it all: running episodes do not notice, and those who wait get their slots after."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

import envmesh
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.local_mesh import LocalMesh

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[2]
SLOTS = 4


async def leases(local: LocalMesh) -> tuple[int, int]:
    """Slots in use and idle, as the only host reports them; none as long as no host has reported."""
    async with grpc.aio.insecure_channel(local.address) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        hosts = (
            await stub.GetFleet(fleet_pb2.GetFleetRequest(), wait_for_ready=True, timeout=20)
        ).fleet.hosts
    rows = [lease for host in hosts for lease in host.report.leases]
    return sum(row.in_use for row in rows), sum(row.idle for row in rows)


async def holds(local: LocalMesh, in_use: int, idle: int | None = None) -> bool:
    """Whether so many slots are in use, and idle where that is said."""
    found = await leases(local)
    return found[0] == in_use and idle in (None, found[1])


async def restarted(local: LocalMesh, starts: int) -> bool:
    """Whether the broker has been started again and is ready."""
    return local.broker.starts > starts and local.broker.ready.is_set()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds; the broker is asked, for it calls nobody."""
    while not await condition():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def test_running_episodes_go_on_and_those_who_wait_are_served_after():
    target = "walk=tests.environments.recoverable:Replayed?length=100000"
    settings = {"PYTHONPATH": str(ROOT), "ENVMESH_HOST_SLOTS": str(SLOTS)}
    async with LocalMesh([target], host_settings=settings) as local:
        async with envmesh.connect(local.address) as mesh, asyncio.timeout(90), AsyncExitStack() as stack:
            running = [await stack.enter_async_context(mesh.episode("walk", seed=n)) for n in range(SLOTS)]
            played = asyncio.Event()

            async def wait_and_play(seed: int) -> int | None:
                async with mesh.episode("walk", seed=seed) as episode:
                    await episode.step(0)
                    await played.wait()
                    return episode.seed

            async with asyncio.TaskGroup() as group:
                waiting = [group.create_task(wait_and_play(seed), name=f"wait-{seed}") for seed in (10, 11)]
                for _ in range(3):
                    starts = local.broker.starts
                    local.broker.crash()
                    for episode in running:
                        await episode.step(1)
                    await until(lambda before=starts: restarted(local, before))
                    await until(lambda: holds(local, SLOTS))
                    assert not any(task.done() for task in waiting), "a slot was given twice"
                for episode in running[:2]:
                    await episode.close()
                for episode in running[2:]:
                    await episode.step(1)
                await until(lambda: holds(local, SLOTS, 0))
                played.set()
            assert [task.result() for task in waiting] == [10, 11]
        async with asyncio.timeout(20):
            await until(lambda: holds(local, 0, 0))
