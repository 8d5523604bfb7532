"""A vector whose hosts, links and slots are lost: what goes on goes on as it was, and nobody waits for nothing."""

from __future__ import annotations

import asyncio

import pytest

import envmesh
from envmesh.errors import MeshUnavailable, Refusal
from envmesh.v1 import environment_pb2 as pb
from tests.integration.closed_parts import until
from tests.integration.command_line import started
from tests.integration.conftest import ROOT, own_host
from tests.integration.recoverable_parts import busiest, connected
from tests.integration.test_closed_host import free_port

CUT = MeshUnavailable("the link was cut")


@pytest.mark.parametrize("name", ["Chancy", "SavedOften"])
async def test_a_checkpoint_in_the_frame_of_its_outcome_is_kept(name):
    async with connected(name, "length=60") as (local, mesh), mesh.vector("walk", 2, seed=3) as vector:
        await vector.reset()
        for _ in range(7):
            await vector.step([1, 1])
        assert min(vector.journal(number).base for number in range(2)) >= 3
        child, _ = await busiest(local, 2)
        child.crash()
        for _ in range(2):
            batch = await vector.step([1, 1])
            assert batch.valid.all(), batch.failures


async def test_a_checkpoint_that_comes_after_the_next_episodes_reset_is_not_taken_for_one_of_it():
    async with connected("SavedOften", "length=4") as (_, mesh), mesh.vector("walk", 2, seed=3) as vector:
        await vector.reset()
        handles = {*vector._handles.tolist()}
        for _ in range(5):
            batch = await vector.step([1, 1])
        assert not batch.terminated.any()
        assert not handles & {*vector._handles.tolist()}


async def test_a_slot_that_is_lost_as_it_comes_is_asked_for_again(host):
    async with envmesh.connect(host.address) as mesh:
        async with mesh.vector("cartpole", 1, seed=1) as first:
            await first.reset()  # which leaves an idle slot
        (connection,) = mesh.open_connections()
        async with mesh.vector("cartpole", 1, seed=5) as vector, asyncio.TaskGroup() as group:
            resetting = group.create_task(vector.reset(timeout=20))
            await asyncio.sleep(
                0
            )  # it has asked for the slot, and is told of it in the next turn of the loop
            connection._note_lost(CUT)
        assert resetting.result().valid.all()


async def test_a_reset_that_a_host_refuses_begins_elsewhere_with_the_same_seed(host):
    refused = Refusal("this host drains", reason="DRAINING").to_status().SerializeToString()
    async with envmesh.connect(host.address) as mesh, mesh.vector("falls", 3, seed=1) as vector:
        await vector.reset()
        async with asyncio.TaskGroup() as group:
            resetting = group.create_task(vector.reset(seed=[70, 80, 90]))
            await asyncio.sleep(0)  # it is on its way
            vector.members[1].on_event(pb.EVENT_KIND_FAILURE, 0, refused)
        assert resetting.result().observations[:, 0].tolist() == [70, 80, 90]


async def test_a_reset_without_a_journal_can_be_said_again(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("sticks", 2, seed=1) as vector:
        await vector.reset(seed=[70, 80])
        assert [member.beginning.seed for member in vector.members] == [70, 80]


async def test_connections_that_are_lost_are_forgotten(host):
    async with envmesh.connect(host.address) as mesh, mesh.vector("falls", 2, seed=2) as vector:
        await vector.reset()
        for _ in range(3):
            for connection in mesh.open_connections():
                connection._note_lost(CUT)
            assert (await vector.step([1, 1])).valid.any()
        assert len(vector._blocks) == 1


async def test_large_reset_options_do_not_overtake_the_end_of_the_episode_before():
    with own_host("talks") as host:
        async with envmesh.connect(host.address) as mesh, mesh.vector("talks", 4, seed=1) as vector:
            for _ in range(15):
                assert (await vector.reset(options={"topic": "x" * 300_000})).valid.all()
                assert (await vector.step(["a"] * 4)).valid.all()


async def test_the_patience_for_a_step_stands_still_while_its_episode_is_rebuilt():
    serve = ("serve", "walk=tests.environments.recoverable:Replayed?length=60", "--listen")
    address = f"127.0.0.1:{free_port()}"
    with started(*serve, address, cwd=ROOT) as first:
        async with (
            envmesh.connect(address) as mesh,
            mesh.vector("walk", 1, seed=1, step_timeout=0.5) as vector,
        ):
            await vector.reset(timeout=20)
            first.process.kill()
            await until(lambda: mesh.recovery.rebuilds)
            async with asyncio.TaskGroup() as group:
                stepping = group.create_task(vector.step([1]))
                again = started(*serve, address, cwd=ROOT)  # takes longer than the patience
                await asyncio.to_thread(again.__enter__)
                try:
                    assert (await asyncio.wait_for(stepping, 20)).valid.all()
                finally:
                    await asyncio.to_thread(again.__exit__, None, None, None)
