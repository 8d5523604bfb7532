"""Asynchronous inline environments: tasks of the host's own loop, cancelled where they overrun."""

import asyncio

import pytest

from envmesh import values
from envmesh.errors import Refusal
from envmesh_host.isolation.inline import InlineRunner
from envmesh_host.served import Served
from tests.integration.runner_play import playing


@pytest.fixture
async def inline():
    """Makes runners whose tasks belong to a group that ends with the test."""
    async with asyncio.TaskGroup() as tasks:

        def make(definition, copies_lost):
            return InlineRunner(Served.prepare(definition), spawn=tasks.create_task)

        yield make


async def test_episodes_run_side_by_side(inline):
    async with playing(inline, "MisbehavingInline") as play:
        episodes = [await play.episode() for _ in range(40)]
        await asyncio.gather(*[episode.step("meet 40", limit=20.0) for episode in episodes])


@pytest.mark.parametrize(
    ("action", "reason", "words"),
    [
        ("raise", "ENVIRONMENT_RAISED", "LookupError"),
        ("exit", "ENVIRONMENT_RAISED", "SystemExit"),
        ("wait long", "LIMIT_EXCEEDED", "and was cancelled"),
    ],
)
async def test_a_misbehaving_step_ends_its_episode_only(inline, action, reason, words):
    async with playing(inline, "MisbehavingInline") as play:
        bad, good = await play.episode(), await play.episode()
        with pytest.raises(Refusal, match=words) as refused:
            await bad.step(action)
        assert refused.value.reason == reason
        assert await good.step("wait") == "wait"
        await bad.close()
        assert play.runner.stuck == 0


async def test_a_step_that_refuses_to_be_cancelled_is_answered_and_counted(inline):
    async with playing(inline, "tests.environments.stubborn:Stubborn") as play:
        bad, good = await play.episode(), await play.episode()
        with pytest.raises(Refusal, match="and could not be cancelled"):
            await bad.step("refuse", limit=0.1)
        assert play.runner.stuck == 1
        assert await good.step("relent") == "relent"
        await bad.close()
        assert play.runner.stuck == 0


async def test_the_limit_of_a_command_in_doubt_counts_from_when_it_may_begin(inline):
    async with playing(inline, "MisbehavingInline") as play:
        doubted, other = await play.episode(), await play.episode()
        play.runner.hold(doubted.seat, True)
        step = doubted.begin_step("well", limit=0.05)
        with pytest.raises(Refusal, match="and was cancelled"):
            await other.step("wait long", limit=0.3)
        assert not step.done()
        play.runner.hold(doubted.seat, False)
        assert values.decode((await step)[0]) == "well"


async def test_closing_an_episode_cancels_its_step(inline):
    async with playing(inline, "MisbehavingInline") as play:
        episode = await play.episode()
        step = episode.begin_step("wait long", limit=30.0)
        closed = episode.begin_close()
        with pytest.raises(Refusal, match="CANCELLED"):
            await step
        await closed
        waiting = await play.episode()
        step = waiting.begin_step("wait long", limit=30.0)
        await play.runner.stop(0.2)
        with pytest.raises(Refusal, match=r"CANCELLED|PREEMPTED"):
            await step


async def test_global_generators_need_process_isolation(inline):
    with pytest.raises(Refusal, match="process isolation"):
        async with playing(inline, "GamblerLater", isolation="inline"):
            pass
