"""Slots that lie idle at a client: who is offered them, and which are gone when their host takes some back."""

import asyncio

import pytest

from envmesh.slot import Slot
from envmesh.v1 import environment_pb2 as pb
from tests.integration.told_hosts import ToldMesh

pytestmark = pytest.mark.timeout(60)


async def test_a_slot_whose_host_was_to_be_avoided_is_offered_once_it_is_not():
    async with ToldMesh() as mesh, asyncio.timeout(20):
        host = await mesh.host("x")
        await mesh.room(host)
        mesh.recovery.avoid("x", seconds=0.3)
        came: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        mesh.walks.want(1, came.set_result, came.set_exception, relocation=True)
        assert not came.done()
        assert (await came).connection is host
        assert mesh.walks.take_idle() is None


@pytest.mark.parametrize("count", [1, 2])
async def test_a_host_takes_as_many_idle_slots_back_as_it_says_whatever_their_names_here(count: int):
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        slot = await mesh.slot(host)
        slot.binding.count = 2
        pools = mesh.walks, mesh.pool("walk")
        for pool in pools:
            pool.give(Slot(slot.binding))
        number = slot.binding.number
        notice = pb.Notice(kind=pb.NOTICE_KIND_SLOTS_RETURNED, lease_number=number, count=count)
        host.when_noticed(host, notice)
        assert sum(pool.take_idle() is not None for pool in pools) == 2 - count
        assert (number in host.sessions) == (count < 2), "a lease that gives none is forgotten"
