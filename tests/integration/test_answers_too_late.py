"""Answers to what a caller had no patience for: they are never taken for the answer to something else."""

import asyncio

import pytest

from envmesh.detached import read_detached
from envmesh.errors import DeadlineExceeded, InvalidRequest
from envmesh.session import Episode
from envmesh.v1 import environment_pb2 as pb
from tests.integration.told_hosts import ToldHost, ToldMesh, settled

pytestmark = pytest.mark.timeout(60)

GRADE = pb.RewardResponse(value=0.5, valid=True).SerializeToString()


async def graded_in_vain(episode: Episode, host: ToldHost) -> int:
    """A grade whose caller had no patience. Returns the episode's handle."""
    with pytest.raises(DeadlineExceeded):
        await episode.reward(timeout=0)
    ((kind, handle),) = await host.told()
    assert kind == "REWARD"
    return handle


async def test_who_has_no_patience_is_told_for_what():
    async with ToldMesh() as mesh:
        episode = await mesh.standing(await mesh.host("x"))
        with pytest.raises(
            DeadlineExceeded, match=r"^reward of walk@1 took longer than the caller would wait"
        ):
            await episode.reward(timeout=0)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda host, handle: host.says(handle, pb.EVENT_KIND_REWARD, GRADE), id="given"),
        pytest.param(lambda host, handle: host.fails(handle, "UNSUPPORTED"), id="refused"),
    ],
)
async def test_a_grade_that_comes_or_is_refused_late_is_not_the_outcome_of_a_step(answer):
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        episode = await mesh.standing(host)
        handle = await graded_in_vain(episode, host)
        step = asyncio.ensure_future(episode.step("go"))  # noqa: TID251 - awaited below
        assert await host.kinds() == ["STEP"]
        answer(host, handle)
        host.outcome(handle, 1)
        assert (await step).index == 1


async def test_a_late_grade_is_no_attach_token():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        episode = await mesh.standing(host)
        handle = await graded_in_vain(episode, host)
        detaching = asyncio.ensure_future(episode.detach())  # noqa: TID251 - awaited below
        assert await host.kinds() == ["DETACH"]
        host.says(handle, pb.EVENT_KIND_REWARD, GRADE)
        host.says(handle, pb.EVENT_KIND_DETACHED, b"token")
        assert read_detached(await detaching)["attach_token"] == b"token"


async def test_a_late_grade_does_not_move_an_episode_whose_step_runs():
    async with ToldMesh() as mesh:
        first, second = await mesh.host("x"), await mesh.host("y")
        episode = await mesh.standing(first)
        handle = await graded_in_vain(episode, first)
        step = asyncio.ensure_future(episode.step("go"))  # noqa: TID251 - awaited below
        assert await first.kinds() == ["STEP"]
        await mesh.room(second)
        first.drains()
        await settled()
        first.says(handle, pb.EVENT_KIND_REWARD, GRADE)
        assert "RESUME" not in await second.kinds(), "the old copy still does its step"
        first.outcome(handle, 1)
        assert (await step).index == 1
        assert await second.kinds() == ["RESUME"]


@pytest.mark.parametrize("what", ["reward", "checkpoint", "detach"])
async def test_while_a_step_goes_on_that_nobody_awaits_nothing_else_is_asked(what: str):
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        episode = await mesh.standing(host)
        with pytest.raises(DeadlineExceeded, match=r"^step 1 of walk@1 took longer"):
            await episode.step("go", timeout=0)
        ((_, handle),) = await host.told()
        with pytest.raises(InvalidRequest, match="step 1 of this episode goes on: await it again") as refused:
            await getattr(episode, what)()
        assert refused.value.reason == "STEP_CONFLICT"
        assert await host.told() == []
        host.outcome(handle, 1)
        assert (await episode.step("go")).index == 1


async def test_a_grade_is_given_again_to_who_asks_again():
    async with ToldMesh() as mesh:
        host = await mesh.host("x")
        episode = await mesh.standing(host)
        handle = await graded_in_vain(episode, host)
        grading = asyncio.ensure_future(episode.reward())  # noqa: TID251 - awaited below
        assert await host.kinds() == ["REWARD"]
        for _ in range(2):
            host.says(handle, pb.EVENT_KIND_REWARD, GRADE)
        assert (await grading).value == 0.5
