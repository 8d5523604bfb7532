"""Resets that are large values: their slots are free again when their episodes are over, whatever became of them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import envmesh
from tests.integration.command_line import started

ROOT = Path(__file__).resolve().parents[2]
LARGE = {"topic": "x" * 300_000}
LARGEST = {"topic": "x" * 3_000_000}


@pytest.fixture
def address():
    """A host with a single slot, which a client that loses it waits for until its lease has been idle for a minute."""
    target = "talks=tests.environments.for_clients:Talks"
    with started("serve", target, "--slots", "1", "--listen", "127.0.0.1:0", cwd=ROOT) as host:
        yield host.address


async def test_one_large_reset_follows_another_in_a_slot(address: str):
    async with asyncio.timeout(30), envmesh.connect(address) as mesh:
        for seed in range(20):
            async with mesh.episode("talks", seed=seed, options=LARGE) as episode:
                await episode.step("a")


async def test_a_small_reset_follows_a_large_one(address: str):
    async with asyncio.timeout(30), envmesh.connect(address) as mesh:
        for seed in range(20):
            async with mesh.episode("talks", seed=seed, options=LARGE if seed % 2 else None) as episode:
                await episode.step("a")


async def test_a_large_reset_that_is_cancelled_leaves_its_slot_free(address: str):
    async with asyncio.timeout(30), envmesh.connect(address) as mesh:

        async def begin(**more: Any) -> None:
            async with mesh.episode("talks", **more):
                pass

        await begin()  # the lease is there
        for turns in range(20):
            beginning = asyncio.ensure_future(begin(options=LARGEST))  # noqa: TID251 - awaited below
            for _ in range(turns):
                await asyncio.sleep(0)
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)
        async with mesh.episode("talks") as episode:
            assert (await episode.step("a")).index == 1


async def test_rollouts_that_are_left_while_large_resets_are_on_their_way_keep_no_slot(address: str):
    async with asyncio.timeout(30), envmesh.connect(address) as mesh:
        for _ in range(4):
            async with mesh.rollouts("talks", lambda observation: "a", options=LARGEST) as rollouts:
                await anext(rollouts)
        async with mesh.episode("talks") as episode:
            assert (await episode.step("a")).index == 1


async def test_a_client_that_closes_while_a_large_reset_is_on_its_way_keeps_no_slot(address: str):
    async with asyncio.timeout(30):
        async with envmesh.connect(address) as mesh:
            async with mesh.episode("talks"):
                pass
            episode = mesh.episode("talks", options=LARGEST)
            beginning = asyncio.ensure_future(episode.begin())  # noqa: TID251 - ends as the client is closed
            for _ in range(10):
                await asyncio.sleep(0)
        await asyncio.gather(beginning, return_exceptions=True)
        async with envmesh.connect(address) as mesh, mesh.episode("talks") as episode:
            assert (await episode.step("a")).index == 1


async def test_a_vector_begins_anew_with_large_options(address: str):
    async with asyncio.timeout(30), envmesh.connect(address) as mesh, mesh.vector("talks", 1) as vector:
        for options in (LARGE, LARGE, {}, LARGE):
            assert len(await vector.reset(options=options)) == 1
