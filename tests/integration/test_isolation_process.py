"""Process isolation: whatever an environment does, its neighbours do not notice, and it ends with a precise refusal."""

import asyncio
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

from envmesh.errors import Refusal
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.process import ProcessRunner
from envmesh_host.isolation.process_settings import ProcessSettings
from tests.integration.runner_play import alive, descendants, gone, playing


@pytest.fixture
def others():
    """The processes below this one that are not this test's: hosts that other tests of this worker keep."""
    return descendants()


def pool(slots=32, **settings):
    def make(definition, copies_lost):
        return ProcessRunner(
            definition, slots=slots, copies_lost=copies_lost, settings=ProcessSettings(**settings)
        )

    return make


MISBEHAVIOURS = {
    "sleep": ("LIMIT_EXCEEDED", "step 2 ran longer than its limit of 0.4 s"),
    "spin": ("LIMIT_EXCEEDED", "step 2 ran longer than its limit of 0.4 s"),
    "raise": ("ENVIRONMENT_RAISED", "LookupError: no such door"),
    "exit": ("ENVIRONMENT_RAISED", "SystemExit: enough"),
    "os._exit": ("WORKER_CRASHED", "ended itself with exit code 3 during step 2"),
    "segfault": ("WORKER_CRASHED", "died by SIGSEGV during step 2"),
    "abort": ("WORKER_CRASHED", "died by SIGABRT during step 2"),
    "kill -9": ("WORKER_LOST", "was killed by SIGKILL from outside during step 2"),
    "allocate": ("ENVIRONMENT_RAISED", "MemoryError"),
    "garbage": ("ENVIRONMENT_RETURNED", "it returned str 'garbage'"),
    "nothing": ("ENVIRONMENT_RETURNED", "it returned NoneType None"),
    "object": ("ENVIRONMENT_RETURNED", "object"),
    "nan": ("REWARD_INVALID", "the reward is nan"),
    "large": ("MESSAGE_TOO_LARGE", "the outcome has 1,000,0"),
    "close files": ("WORKER_CRASHED", "during step 2"),
    "write garbage": ("WORKER_CRASHED", "wrote garbage into its connection"),
}


@pytest.mark.parametrize("action", MISBEHAVIOURS)
async def test_a_misbehaving_step_ends_its_episode_and_no_other(action):
    reason, words = MISBEHAVIOURS[action]
    settings = {"memory_bytes": 1 << 30, "max_value_bytes": 500_000}
    async with playing(pool(**settings), "Misbehaving") as play:
        neighbours = [await play.episode() for _ in range(3)]
        bad = await play.episode()
        assert await bad.step("well") == "well"
        step = bad.begin_step(action, limit=40.0 if action == "allocate" else None)
        for count in range(20):
            for neighbour in neighbours:
                assert await neighbour.step(f"well {count}") == f"well {count}"
        with pytest.raises(Refusal) as refused:
            await step
        assert refused.value.reason == reason
        assert words in str(refused.value)
        assert refused.value.ends_episode
        await bad.close()
        for neighbour in neighbours:
            assert await neighbour.step("well") == "well"
            assert neighbour.index == 21
            await neighbour.close()
        assert not play.lost
        fresh = await play.episode()
        assert await fresh.step("well") == "well"


async def test_a_crash_comes_with_the_last_words_of_the_worker():
    async with playing(pool(), "Misbehaving") as play:
        episode = await play.episode()
        with pytest.raises(Refusal) as refused:
            await episode.step("segfault")
        assert "in misbehave" in refused.value.detail
        assert "Segmentation fault" in refused.value.detail


@pytest.mark.parametrize("action", ["print", "write"])
async def test_printing_megabytes_blocks_nobody_and_is_cut(action, caplog):
    caplog.set_level("INFO", logger="envmesh.worker")
    async with playing(pool(), "Misbehaving") as play:
        episode = await play.episode()
        assert await episode.step(action, limit=20.0) == action
        await episode.close()
    assert sum(len(record.getMessage()) for record in caplog.records) < 200_000
    if action == "print":
        assert any(getattr(record, "lines_dropped", 0) for record in caplog.records)


async def test_neighbours_in_the_same_worker_are_lost_by_no_fault_of_their_own():
    async with playing(pool(slots=8, workers=1), "MisbehavingTogether") as play:
        episodes = [await play.episode() for _ in range(4)]
        assert len({episode.first for episode in episodes}) == 1
        bad, waiting, *idle = episodes
        step, queued = bad.begin_step("segfault"), waiting.begin_step("well")
        with pytest.raises(Refusal) as crashed:
            await step
        with pytest.raises(Refusal) as lost:
            await queued
        assert crashed.value.reason == "WORKER_CRASHED"
        assert lost.value.reason == "WORKER_LOST"
        assert "died by SIGSEGV during another episode's step 1" in str(lost.value)
        assert [seat for seat, _ in play.lost] == [episode.seat for episode in idle]
        assert {refusal.reason for _, refusal in play.lost} == {"WORKER_LOST"}
        with pytest.raises(Refusal, match="WORKER_LOST"):
            await idle[0].step("well")
        for episode in episodes:
            await episode.close()
        assert await (await play.episode()).step("well") == "well"


async def test_a_limit_in_a_shared_worker_is_one_episodes_own():
    async with playing(pool(slots=8, workers=1), "MisbehavingTogether") as play:
        bad, waiting, idle = [await play.episode() for _ in range(3)]
        step, queued = bad.begin_step("spin"), waiting.begin_step("well")
        with pytest.raises(Refusal, match="step 1 ran longer than its limit"):
            await step
        with pytest.raises(Refusal, match="another episode's step 1 overran its limit"):
            await queued
        assert [seat for seat, _ in play.lost] == [idle.seat]


async def test_sys_exit_leaves_the_neighbours_in_the_worker_alone():
    async with playing(pool(slots=8, workers=1), "MisbehavingTogether") as play:
        bad, good = await play.episode(), await play.episode()
        with pytest.raises(Refusal, match="SystemExit") as refused:
            await bad.step("exit")
        assert 'sys.exit("enough")' in refused.value.detail
        assert await good.step("well") == "well"


async def test_a_kill_from_outside_is_nobodys_fault():
    async with playing(pool(slots=8, workers=1), "MisbehavingTogether") as play:
        busy, idle = await play.episode(), await play.episode()
        step = busy.begin_step("sleep", limit=30.0)
        assert not step.done()
        os.kill(int(idle.first), signal.SIGKILL)
        with pytest.raises(Refusal) as refused:
            await step
        assert refused.value.reason == "WORKER_LOST"
        assert [(seat, refusal.reason) for seat, refusal in play.lost] == [(idle.seat, "WORKER_LOST")]


async def test_an_idle_worker_that_dies_is_noticed_and_replaced():
    async with playing(pool(), "Misbehaving") as play:
        episode, neighbour = await play.episode(), await play.episode()
        await episode.step("die soon")
        await play.lost_all(1)
        ((seat, refusal),) = play.lost
        assert seat is episode.seat
        assert "ended itself with exit code 4 while no environment's code ran" in str(refusal)
        assert await neighbour.step("well") == "well"
        assert await (await play.episode()).step("well") == "well"


async def test_the_end_of_the_forkserver_loses_every_copy_and_a_new_one_begins():
    async with playing(pool(), "Misbehaving") as play:
        busy, idle = await play.episode(), await play.episode()
        step = busy.begin_step("sleep", limit=30.0)
        os.kill(play.runner._nursery.process_id, signal.SIGKILL)
        with pytest.raises(Refusal, match="WORKER_LOST"):
            await step
        await play.lost_all(1)
        assert play.lost[0][0] is idle.seat
        assert await (await play.episode()).step("well") == "well"
    assert not alive(int(busy.first))
    assert not alive(int(idle.first))


async def test_an_episode_that_begins_before_the_end_of_the_forkserver_is_seen_is_answered():
    async with playing(pool(), "Misbehaving") as play, asyncio.timeout(20):
        idle = await play.episode()
        forkserver = play.runner._nursery.process_id
        os.kill(forkserver, signal.SIGKILL)
        os.waitid(os.P_PID, forkserver, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - the loop is not to turn
        with pytest.raises(Refusal, match="WORKER_LOST"):
            await play.episode()
        assert [seat for seat, _ in play.lost] == [idle.seat]
        assert await (await play.episode()).step("well") == "well"


async def test_closing_an_episode_whose_step_runs_cancels_the_step():
    async with playing(pool(), "Misbehaving") as play:
        episode = await play.episode()
        step = episode.begin_step("sleep", limit=0.5)
        closed = episode.begin_close()
        with pytest.raises(Refusal, match="CANCELLED"):
            await step
        await closed
        assert not play.lost
        assert await (await play.episode()).step("well") == "well"


async def test_what_a_worker_leaves_behind_is_killed(others):
    async with playing(pool(), "Misbehaving") as play:
        episode = await play.episode()
        child = int(await episode.step("leave a child"))
        await episode.step("fork")
        assert alive(child)
        with pytest.raises(Refusal):
            await episode.step("os._exit")
        await play.episode()
        await gone(child)
    assert descendants() <= others


async def test_no_process_is_left_after_stop(others):
    async with playing(pool(), "Misbehaving") as play:
        episodes = [await play.episode() for _ in range(4)]
        await episodes[0].step("leave a child")
        step = episodes[1].begin_step("spin", limit=30.0)
        assert len(descendants() - others) >= 5
        await play.runner.stop(0.2)
        assert descendants() <= others
        with pytest.raises(Refusal, match="PREEMPTED"):
            await step


HOST = """
import asyncio, sys
from tests.integration.runner_play import descendants, playing
from tests.integration.test_isolation_process import pool

async def main():
    async with playing(pool(), "Misbehaving") as play:
        episodes = [await play.episode() for _ in range(3)]
        step = episodes[0].begin_step("spin", limit=600.0)
        print(*descendants(), flush=True)
        await step

asyncio.run(main())
"""


async def test_workers_die_with_their_host():
    host = await asyncio.create_subprocess_exec(sys.executable, "-c", HOST, stdout=asyncio.subprocess.PIPE)
    assert host.stdout is not None
    below = [int(pid) for pid in (await host.stdout.readline()).split()]
    assert len(below) >= 4
    host.kill()
    await host.wait()
    for pid in below:
        await gone(pid)


async def test_workers_are_reused_and_surplus_ones_end():
    async with playing(pool(idle_seconds=0.1), "Misbehaving") as play:
        first = await play.episode()
        await first.close()
        again = await play.episode()
        assert again.first == first.first
        episodes = [again, *[await play.episode() for _ in range(3)]]
        assert len({episode.first for episode in episodes}) == 4
        for episode in episodes:
            await episode.close()
        for episode in episodes[1:]:
            await gone(int(episode.first))
        assert alive(int(again.first))
        assert await (await play.episode()).step("well") == "well"


async def test_episodes_beyond_the_workers_wait_their_turn():
    async with playing(pool(slots=4, workers=2), "Misbehaving") as play:
        first, second = await play.episode(), await play.episode()
        async with asyncio.TaskGroup() as tasks:
            third = tasks.create_task(play.episode(), name="third")
            assert await first.step("well") == "well"
            assert not third.done()
            await second.close()
        assert await third.result().step("well") == "well"


@pytest.mark.parametrize(
    ("target", "action"),
    [("InPlace", np.ones(2, np.float32)), ("InPlaceOfTwo", {"left": [1.0, 1.0], "right": [1.0, 1.0, 1.0]})],
)
async def test_every_worker_gives_the_environment_actions_that_it_may_write_to(target, action):
    async with playing(pool(slots=3), f"tests.environments.in_place:{target}") as play:
        episodes = [await play.episode() for _ in range(3)]
        outcomes = {(await episode.begin_step(action))[0] for episode in episodes}
        assert len(outcomes) == 1


@pytest.mark.parametrize(
    ("target", "reason", "words"),
    [
        ("RaisesWhenMade", "ENVIRONMENT_RAISED", "OSError: no display"),
        ("DiesWhenMade", "WORKER_CRASHED", "died by SIGSEGV during the creation of the environment"),
        (
            "HangsWhenMade",
            "LIMIT_EXCEEDED",
            "HangsWhenMade@1 took longer than 0.6 s",
        ),
    ],
)
async def test_an_environment_that_cannot_be_made_is_refused_at_the_start(target, reason, words, others):
    with pytest.raises(Refusal) as refused:
        async with playing(pool(), target):
            pass
    assert refused.value.reason == reason
    assert words in str(refused.value)
    assert descendants() <= others


CARELESS = {
    "RaisesWhenClosed": "closing the environment raised RuntimeError: the browser is gone",
    "ExitsWhenMade": "creating the environment raised SystemExit: no licence",
    "RaisesWhenAsked": "looking at the environment raised LookupError: not yet connected",
}


@pytest.mark.parametrize("target", CARELESS)
async def test_what_an_environment_raises_while_it_is_looked_at_is_said_with_its_traceback(target):
    with pytest.raises(Refusal, match=CARELESS[target]) as refused:
        async with playing(pool(), f"tests.environments.careless:{target}"):
            pass
    assert refused.value.reason == "ENVIRONMENT_RAISED"
    assert "careless.py" in refused.value.detail


async def test_a_module_that_cannot_be_imported_is_refused_at_the_start(others):
    target = "tests.environments.misbehaving:Misbehaving"
    definition = replace(load(target), target="tests.environments.broken_import:Anything")
    runner = ProcessRunner(definition, slots=1, copies_lost=lambda seats, refusal: None)
    with pytest.raises(Refusal, match="RuntimeError: no licence"):
        await runner.start()
    assert descendants() <= others


async def test_a_crash_loop_is_slowed_down_and_every_reset_hears_of_it():
    async with playing(pool(), "DiesAtReset") as play:
        for _ in range(6):
            with pytest.raises(Refusal, match="exit code 9 during reset"):
                await play.episode()


async def test_thousands_of_jobs_in_flight():
    async with playing(pool(slots=2_000, workers=2), "envmesh_environments.echo:Echo", **SHARED) as play:
        assert play.info.isolation == pb.ISOLATION_MODE_PROCESS
        episodes = await asyncio.gather(*[play.episode(seed) for seed in range(2_000)])
        for index in range(4):
            action = bytes([index]) * 50
            for observation in await asyncio.gather(*[episode.step(action) for episode in episodes]):
                assert observation == action * 2


SHARED = {"isolation": "process", "episodes_per_worker": 1_024}


async def test_values_larger_than_any_buffer_pass():
    async with playing(pool(slots=4), "tests.environments.large:Large", isolation="process") as play:
        episode = await play.episode()
        for size in (1, 70_000, 3_000_000, 20_000_000):
            assert len(await episode.step(b"x" * size)) == 2 * size


async def test_asynchronous_episodes_run_side_by_side_in_one_worker():
    async with playing(pool(slots=64, workers=1), "MisbehavingLater") as play:
        episodes = [await play.episode() for _ in range(50)]
        await asyncio.gather(*[episode.step("meet 50", limit=20.0) for episode in episodes])
        assert len({episode.first for episode in episodes}) == 1


@pytest.mark.parametrize(
    ("action", "words"), [("wait long", "and was cancelled"), ("refuse to end", "could not be")]
)
async def test_an_asynchronous_overrun_ends_one_episode_only(action, words):
    async with playing(pool(slots=64, workers=1), "MisbehavingLater") as play:
        bad, good = await play.episode(), await play.episode()
        with pytest.raises(Refusal, match=words) as refused:
            await bad.step(action)
        assert refused.value.reason == "LIMIT_EXCEEDED"
        assert await good.step("wait") == "wait"
        assert not play.lost


async def test_an_asynchronous_environment_that_blocks_its_loop_loses_its_worker():
    async with playing(pool(slots=64, workers=1), "MisbehavingLater") as play:
        bad, good = await play.episode(), await play.episode()
        with pytest.raises(Refusal, match="LIMIT_EXCEEDED"):
            await bad.step("sleep")
        assert [seat for seat, _ in play.lost] == [good.seat]
        assert await (await play.episode()).step("wait") == "wait"


async def test_closing_an_asynchronous_episode_cancels_its_step():
    async with playing(pool(slots=64, workers=1), "MisbehavingLater") as play:
        episode = await play.episode()
        step = episode.begin_step("wait long", limit=30.0)
        closed = episode.begin_close()
        with pytest.raises(Refusal, match="CANCELLED"):
            await step
        await closed


@pytest.mark.parametrize("target", ["Gambler", "GamblerLater"])
async def test_episodes_that_draw_from_the_global_generators_do_not_disturb_each_other(target):
    async with playing(pool(slots=8, workers=1 if target == "Gambler" else 3), target) as play:
        alone = []
        for seed in (1, 2, 2**40):
            episode = await play.episode(seed)
            alone.append([episode.first, *[await episode.step("draw") for _ in range(12)]])
            await episode.close()
        episodes = await asyncio.gather(*[play.episode(seed) for seed in (1, 2, 2**40)])
        together = [[episode.first] for episode in episodes]
        for _ in range(12):
            for drawn, episode in zip(together, episodes, strict=True):
                drawn.append(await episode.step("draw"))
        assert together == alone
        assert len({str(drawn) for drawn in alone}) == 3
        for episode in episodes:
            await episode.close()
        unseeded = [(await play.episode()).first for _ in range(2)]
        assert unseeded[0] != unseeded[1]
