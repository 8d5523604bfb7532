"""A client of weeks, on a fleet that comes and goes: nothing is kept of the hosts that it has lost."""

import asyncio
import gc
import weakref

import pytest

from envmesh.errors import MeshUnavailable
from tests.integration.closed_parts import until
from tests.integration.told_hosts import ToldHost, ToldMesh, settled

pytestmark = pytest.mark.timeout(60)


class Fleet:
    """Hosts that a test has made; it keeps none of them itself."""

    def __init__(self, mesh: ToldMesh):
        self._mesh = mesh
        self._made: list[weakref.ref[ToldHost]] = []

    async def host(self, number: int) -> ToldHost:
        """One more host, with a free slot."""
        host = await self._mesh.host(f"h{number}")
        self._mesh.made.clear()
        self._made.append(weakref.ref(host))
        await self._mesh.room(host)
        host.reattach_window = 0.0
        return host

    def kept(self) -> int:
        """How many of them anything refers to."""
        gc.collect()
        return sum(made() is not None for made in self._made)


async def plays(host: ToldHost) -> None:
    """An episode begins there, and takes a step."""

    async def told() -> list[int]:
        return [handle for kind, handle in await host.told() if kind == "RESET"]

    (handle,) = await until(told)
    host.outcome(handle, 0)
    host.outcome(handle, 1)
    await settled()


async def test_rollouts_keep_no_connection_to_a_host_that_was_lost():
    async with ToldMesh("NONE", reattach_timeout=0.1) as mesh, asyncio.TaskGroup() as group:
        fleet = Fleet(mesh)
        rollouts = mesh.rollouts("walk@1", lambda observation: "go", concurrency=2)
        fetching = group.create_task(anext(rollouts), name="fetch")
        await plays(await fleet.host(0))
        for number in range(1, 6):
            host = await fleet.host(number)
            await plays(host)
            mesh.dead.add(host.host_id)
            host.breaks()
            del host
            assert (await fetching).failure is not None
            fetching = group.create_task(anext(rollouts), name="fetch")
        await until(lambda: not mesh.recovery._lost)  # nobody tries to reach them any more
        assert fleet.kept() == 1
        fetching.cancel()


async def test_nothing_is_kept_of_a_host_that_is_never_reached():
    async with ToldMesh() as mesh:
        mesh.dead.add("x")
        refused: list[weakref.ref[MeshUnavailable]] = []
        for _ in range(2):
            try:
                await mesh.host("x")
            except MeshUnavailable as error:
                refused.append(weakref.ref(error))
        await settled()
        gc.collect()
        assert [error() for error in refused] == [None, None]
