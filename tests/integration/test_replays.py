"""Long journals hold nobody up, suspects are kept apart, absurd journals harm no one: real workers, real threads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from envmesh import values
from envmesh.errors import Refusal
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.inline import InlineRunner
from envmesh_host.isolation.process import ProcessRunner
from envmesh_host.isolation.process_settings import ProcessSettings
from envmesh_host.isolation.thread import ThreadRunner
from envmesh_host.player import Player
from envmesh_host.served import Served
from tests.integration.runner_play import Episode, Play, playing

pytestmark = pytest.mark.timeout(180)

PAUSE, STEPS = 0.01, 200


def in_workers(definition: Any, copies_lost: Any) -> Any:
    return ProcessRunner(
        definition,
        slots=8,
        copies_lost=copies_lost,
        settings=ProcessSettings(workers=1, max_value_bytes=20_000),
    )


def in_a_thread(definition: Any, copies_lost: Any) -> Any:
    return ThreadRunner(definition, slots=8, copies_lost=copies_lost, threads=1)


def in_the_loop(definition: Any, copies_lost: Any) -> Any:
    tasks: set[Any] = set()

    def spawn(work: Any, /, *, name: str) -> Any:
        task = asyncio.get_running_loop().create_task(work, name=name)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    return InlineRunner(Served.prepare(definition), spawn=spawn)


STEP_LIMIT = 1.5
"""Shorter than the whole replay, and much longer than one of its steps."""

RUNNERS = {
    "process": (in_workers, "SavedInWorker"),
    "aside-process": (in_workers, "SavedAsideInWorker"),
    "thread": (in_a_thread, "SavedInThread"),
    "aside-thread": (in_a_thread, "SavedAsideInThread"),
    "aside": (in_the_loop, "SavedAside"),
}


async def played(play: Play, steps: int = STEPS) -> pb.Journal:
    """An episode's journal; no runner is needed for that."""
    target = f"tests.environments.recoverable:Saved?length={10 * STEPS}"
    player = Player(Served.prepare(load(target)))
    journal = pb.Journal(format_version=1)
    reset = pb.ResetEntry(environment=f"{play.info.name}@1", seed=7)
    journal.entries.add(reset=reset, digest=player.reset(pb.ResetRequest(seed=7))[3])
    for index in range(steps):
        action = values.encode(index % 5)
        journal.entries.add(act=action, digest=player.step(action)[3])
    return journal


async def neighbour_of(play: Play) -> Episode:
    """An episode that is reset; what it observes is nobody's concern."""
    neighbour = Episode(play)
    reset = pb.ResetRequest(seed=1).SerializeToString()
    await play.carry_out(neighbour.seat, pb.COMMAND_KIND_RESET, payload=reset)
    return neighbour


def begin_resume(play: Play, seat: Any, journal: pb.Journal, **more: Any) -> Any:
    payload = pb.ResumeRequest(journal=journal, **more).SerializeToString()
    return play.carry_out(seat, pb.COMMAND_KIND_RESUME, payload=payload, limit=STEP_LIMIT)


@pytest.fixture(params=RUNNERS)
async def play(request: pytest.FixtureRequest) -> Any:
    make, name = RUNNERS[request.param]
    target = f"tests.environments.recoverable:{name}?length={10 * STEPS}&pause={PAUSE}"
    async with playing(make, target) as play:
        yield play


async def test_others_step_while_a_long_journal_is_replayed_and_its_limit_is_that_of_a_step(play: Play):
    """The replay takes 2 s and more."""
    neighbour = await neighbour_of(play)
    journal, seat = await played(play), play.runner.seat()
    resumption = begin_resume(play, seat, journal)
    for _ in range(3):
        await neighbour.begin_step(1)
    assert not resumption.done(), "a neighbour's steps took as long as the whole replay"
    response = pb.ResumeResponse.FromString((await resumption)[0])
    assert (response.replayed, response.last.index) == (STEPS, STEPS)
    rebuilt = Episode(play)
    rebuilt.seat, rebuilt.index = seat, STEPS
    assert (await rebuilt.begin_step(STEPS % 5))[3] == (await played(play, STEPS + 1)).entries[-1].digest
    await rebuilt.close()
    await neighbour.close()


async def test_a_resumption_is_given_up_when_it_is_closed(play: Play):
    neighbour = await neighbour_of(play)
    journal, seat = await played(play), play.runner.seat()
    resumption = begin_resume(play, seat, journal)
    await neighbour.begin_step(1)
    closing = play.carry_out(seat, pb.COMMAND_KIND_CLOSE)
    with pytest.raises(Refusal, match="closed") as refused:
        await resumption
    assert refused.value.reason == "CANCELLED"
    await closing
    await neighbour.begin_step(1)
    await neighbour.close()


async def test_a_resumption_comes_with_the_sum_of_the_rewards_that_it_replayed(play: Play):
    journal = await played(play, 5)
    seat = play.runner.seat()
    row = await begin_resume(play, seat, journal, return_outcomes=True)
    rewards = [outcome.reward for outcome in pb.ResumeResponse.FromString(row[0]).outcomes]
    assert len(rewards) == 6
    assert row[1] == pytest.approx(sum(rewards))
    await play.carry_out(seat, pb.COMMAND_KIND_CLOSE)


async def test_a_journal_that_differs_says_the_step_and_what_is_known_of_the_build(play: Play):
    journal = await played(play, 5)
    journal.entries[3].digest ^= 1
    journal.entries[0].reset.build = "another"
    with pytest.raises(Refusal, match="step 3 led to another outcome") as refused:
        await begin_resume(play, play.runner.seat(), journal)
    assert refused.value.reason == "REPLAY_DIVERGED"
    assert "the journal is of build another, this host runs build" in str(refused.value)


async def test_absurd_journals_are_refused_by_name(play: Play):
    neighbour = await neighbour_of(play)
    good = await played(play, 5)

    async def refused(journal: pb.Journal, **more: Any) -> Refusal:
        seat = play.runner.seat()
        with pytest.raises(Refusal) as caught:
            await begin_resume(play, seat, journal, **more)
        await play.carry_out(seat, pb.COMMAND_KIND_CLOSE)
        return caught.value

    def spoilt(spoil: Any) -> pb.Journal:
        journal = pb.Journal()
        journal.CopyFrom(good)
        spoil(journal)
        return journal

    twice = await refused(spoilt(lambda journal: journal.entries.append(journal.entries[0])))
    assert (twice.reason, "second reset" in str(twice)) == ("MALFORMED", True)
    other = await refused(spoilt(lambda j: setattr(j.entries[0].reset, "environment", "walk@9")))
    assert other.reason == "VERSION_MISMATCH"
    broken = await refused(spoilt(lambda j: setattr(j.entries[2], "act", b"\x0a" * 5000)))
    assert broken.reason in ("ACTION_INVALID", "MALFORMED")
    await neighbour.begin_step(1)
    await neighbour.close()


async def test_outcomes_beyond_a_message_are_refused_and_the_worker_goes_on():
    async with playing(
        in_workers, f"tests.environments.recoverable:SavedInWorker?length={100 * STEPS}"
    ) as play:
        neighbour = await neighbour_of(play)
        journal = await played(play, 1400)
        with pytest.raises(Refusal, match="the bound is 20,000") as refused:
            await begin_resume(play, play.runner.seat(), journal, return_outcomes=True)
        assert refused.value.reason == "MESSAGE_TOO_LARGE"
        await neighbour.begin_step(1)
        await begin_resume(play, play.runner.seat(), journal)


# ---- suspects


def alone(play: Play) -> Episode:
    episode = Episode(play)
    episode.seat = play.runner.seat(apart=True)
    return episode


async def test_a_suspect_has_a_worker_of_its_own_until_it_has_been_stepped_once():
    async with playing(in_workers, "MisbehavingTogether") as play:
        neighbours = [await play.episode() for _ in range(2)]
        suspect = alone(play)
        await suspect.reset()
        assert suspect.first not in {neighbour.first for neighbour in neighbours}
        later = await play.episode()
        assert later.first == neighbours[0].first, "nobody joins a suspect"
        with pytest.raises(Refusal):
            await suspect.step("segfault")
        for neighbour in (*neighbours, later):
            assert await neighbour.step("well") == "well"
        assert not play.lost


async def test_an_acquitted_suspect_gets_company_and_suspects_are_bounded():
    async with playing(in_workers, "MisbehavingTogether") as play:
        first = await play.episode()
        suspects = [alone(play) for _ in range(3)]
        await suspects[0].reset()
        waiting = [play.carry_out(suspect.seat, pb.COMMAND_KIND_RESET) for suspect in suspects[1:]]
        fresh = await play.episode()
        assert fresh.first == first.first, "suspects that wait are in nobody's way"
        assert not any(task.done() for task in waiting)
        assert len({first.first, suspects[0].first}) == 2
        await suspects[0].close()
        suspects[1].first = values.decode((await waiting[0])[0])
        assert not waiting[1].done()
        assert await suspects[1].step("well") == "well"
        suspects[2].first = values.decode((await waiting[1])[0])
        assert suspects[2].first == suspects[1].first, "who is acquitted may have the next one beside it"
        company = await play.episode()
        assert company.first == first.first
        assert await suspects[2].step("well") == "well"
        for episode in (fresh, company):
            await episode.close()
        for _ in range(2):
            await play.episode()
        assert (await play.episode()).first == suspects[1].first, "and others too"


async def test_suspects_find_workers_when_each_has_had_one_and_nobody_leaves():
    async with playing(in_workers, "MisbehavingTogether") as play:
        neighbour = await play.episode()
        acquitted = []
        async with asyncio.timeout(20):
            for _ in range(4):
                suspect = alone(play)
                await suspect.reset()
                assert await suspect.step("well") == "well"
                acquitted.append(suspect)
        assert len({episode.first for episode in (neighbour, *acquitted)}) == 2
