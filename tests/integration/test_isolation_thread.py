"""Thread isolation: a stuck thread is answered for, counted, and in nobody's way."""

import asyncio
import threading

import pytest

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.thread import ThreadRunner
from tests.environments.blocking import CLOSED, GATE
from tests.integration.runner_play import playing


def threads(slots=32, most=None):
    def make(definition, copies_lost):
        return ThreadRunner(definition, slots=slots, copies_lost=copies_lost, threads=most)

    return make


async def test_steps_that_block_run_beside_each_other():
    async with playing(threads(), "tests.environments.blocking:Blocking") as play:
        episodes = [await play.episode() for _ in range(16)]
        steps = [episode.begin_step("meet 16") for episode in episodes]
        assert len(set(await asyncio.gather(*steps))) == 1
        for episode in episodes:
            await episode.close()
    assert not threads_of("Blocking")


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("raise", "ENVIRONMENT_RAISED"),
        ("exit", "ENVIRONMENT_RAISED"),
        ("garbage", "ENVIRONMENT_RETURNED"),
        ("nan", "REWARD_INVALID"),
    ],
)
async def test_a_misbehaving_step_ends_its_episode_only(action, reason):
    async with playing(threads(), "MisbehavingInThread") as play:
        bad, good = await play.episode(), await play.episode()
        with pytest.raises(Refusal) as refused:
            await bad.step(action)
        assert refused.value.reason == reason
        assert await good.step("well") == "well"
        assert play.runner.stuck == 0


async def test_a_stuck_thread_is_refused_at_once_counted_and_replaced():
    async with playing(threads(slots=2, most=2), "tests.environments.blocking:Blocking") as play:
        bad, good = await play.episode(), await play.episode()
        with pytest.raises(Refusal, match=r"step 1 ran longer than its limit of .* and holds its thread"):
            await bad.step("wait for the gate", limit=0.3)
        assert play.runner.stuck == 1
        with pytest.raises(Refusal, match="LIMIT_EXCEEDED"):
            await bad.step("well")
        await bad.close()
        assert play.runner.stuck == 1
        both = [await play.episode(), good]
        assert await asyncio.gather(*[episode.step("meet 2") for episode in both])
        await good.step("open the gate")
        await good.step("wait for the closed", limit=10.0)
        while play.runner.stuck:
            await good.step("well")
    assert not threads_of("Blocking")


async def test_closing_an_episode_whose_step_runs_cancels_the_step():
    async with playing(threads(), "tests.environments.blocking:Blocking") as play:
        episode, other = await play.episode(), await play.episode()
        step = episode.begin_step("wait for the gate", limit=30.0)
        closed = episode.begin_close()
        with pytest.raises(Refusal, match="CANCELLED"):
            await step
        assert not closed.done()
        await other.step("open the gate")
        await closed


async def test_an_asynchronous_environment_has_one_thread_for_all_episodes():
    async with playing(threads(), "MisbehavingLater", isolation="thread") as play:
        episodes = [await play.episode() for _ in range(40)]
        await asyncio.gather(*[episode.step("meet 40", limit=20.0) for episode in episodes])
        assert len(threads_of("MisbehavingLater")) == 1
        with pytest.raises(Refusal, match="and was cancelled"):
            await episodes[0].step("wait long")
        assert await episodes[1].step("wait") == "wait"
    assert not threads_of("MisbehavingLater")


async def test_a_blocked_loop_is_left_behind():
    async with playing(threads(), "tests.environments.blocking:BlockingLater") as play:
        bad, good = await play.episode(), await play.episode()
        with pytest.raises(Refusal, match="and blocks its event loop"):
            await bad.step("wait for the gate", limit=0.2)
        assert [(seat, refusal.reason) for seat, refusal in play.lost] == [(good.seat, "WORKER_LOST")]
        assert play.runner.stuck == 2
        fresh = await play.episode()
        assert await fresh.step("open the gate") == "open the gate"


async def test_a_blocked_loop_closes_its_episodes_and_ends_once_its_code_returns():
    async with playing(threads(), "tests.environments.blocking:BlockingLater") as play, asyncio.timeout(30):
        (blocked,) = threads_of("BlockingLater@1 loop")
        bad = await play.episode()
        with pytest.raises(Refusal, match="and blocks its event loop"):
            await bad.step("wait for the gate", limit=0.2)
        fresh = await play.episode()
        assert not CLOSED.is_set()
        await fresh.step("open the gate")
        await asyncio.to_thread(blocked.join, 10.0)
        assert not blocked.is_alive()
        assert CLOSED.is_set()
        assert play.runner.stuck == 0
        assert await fresh.step("well") == "well"


async def test_no_episode_begins_while_stuck_threads_hold_every_slot():
    async with playing(threads(slots=2, most=2), "tests.environments.blocking:Blocking") as play:
        steps = [(await play.episode()).begin_step("wait for the gate", limit=0.2) for _ in range(2)]
        for step in steps:
            with pytest.raises(Refusal, match="LIMIT_EXCEEDED"):
                await step
        for kind in (pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_RESUME):
            with pytest.raises(Refusal, match=r"holds 2 of 2 slots of .*:Blocking@1") as refused:
                await play.carry_out(play.runner.seat(), kind)
            assert refused.value.reason == "NO_CAPACITY"
        GATE.set()
        for thread in threads_of("Blocking"):
            await asyncio.to_thread(thread.join, 10.0)
        assert play.runner.stuck == 0
        assert await (await play.episode()).step("well") == "well"


async def test_global_generators_need_process_isolation():
    with pytest.raises(Refusal, match="process isolation"):
        async with playing(threads(), "Gambler", isolation="thread"):
            pass


@pytest.mark.parametrize(
    ("target", "reason"), [("RaisesWhenMade", "ENVIRONMENT_RAISED"), ("HangsWhenMade", "LIMIT_EXCEEDED")]
)
async def test_an_environment_that_cannot_be_made_is_refused_at_the_start(target, reason):
    with pytest.raises(Refusal) as refused:
        async with playing(threads(), target, isolation="thread"):
            pass
    assert refused.value.reason == reason


async def test_thousands_of_jobs_in_flight():
    target = "envmesh_environments.echo:Echo"
    async with playing(threads(slots=2_000, most=8), target, isolation="thread") as play:
        episodes = await asyncio.gather(*[play.episode(seed) for seed in range(2_000)])
        for index in range(4):
            action = bytes([index]) * 50
            for observation in await asyncio.gather(*[episode.step(action) for episode in episodes]):
                assert observation == action * 2


def threads_of(name):
    return [thread for thread in threading.enumerate() if name in thread.name]
