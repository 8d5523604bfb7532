"""How long somebody waits who says how long: not at all is a patience too."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from envmesh.errors import DeadlineExceeded, EnvmeshError
from tests.integration.told_hosts import ToldMesh

pytestmark = pytest.mark.timeout(60)


async def begun(mesh: ToldMesh, timeout: float) -> None:
    await mesh.episode("walk@1", timeout=timeout).begin()


async def forked(mesh: ToldMesh, timeout: float) -> None:
    await (await mesh.standing(await mesh.host("x"))).fork(timeout=timeout)


async def rolled_out(mesh: ToldMesh, timeout: float) -> None:
    await anext(mesh.rollouts("walk@1", lambda observation: "go", timeout=timeout))


@pytest.mark.parametrize("take", [begun, forked, rolled_out])
@pytest.mark.parametrize(("timeout", "said"), [(0, "0 s"), (-1, "-1 s|0 s"), (0.2, "0.2 s")])
async def test_whoever_waits_no_longer_for_a_slot_is_told_so(
    take: Callable[..., Any], timeout: float, said: str
):
    async with ToldMesh() as mesh, asyncio.timeout(10):
        with pytest.raises(EnvmeshError, match=f"no slot of walk@1 within ({said})"):
            await take(mesh, timeout)


async def test_whoever_does_not_wait_has_the_slot_that_is_there():
    async with ToldMesh() as mesh, asyncio.timeout(10):
        host = await mesh.host("x")
        await mesh.room(host)
        beginning = asyncio.ensure_future(begun(mesh, 0))  # noqa: TID251 - awaited below
        (handle,) = [handle for kind, handle in await host.told() if kind == "RESET"]
        host.outcome(handle, 0)
        await beginning


@pytest.mark.parametrize("what", ["reward", "checkpoint"])
async def test_whoever_does_not_wait_for_an_answer_is_told_so(what: str):
    async with ToldMesh() as mesh, asyncio.timeout(10):
        episode = await mesh.standing(await mesh.host("x"))
        with pytest.raises(DeadlineExceeded):
            await getattr(episode, what)(timeout=0)


async def test_an_episode_may_have_no_patience_for_its_steps():
    async with ToldMesh() as mesh, asyncio.timeout(10):
        episode = await mesh.standing(await mesh.host("x"))
        episode.step_timeout = 0
        with pytest.raises(DeadlineExceeded):
            await episode.step("go")
