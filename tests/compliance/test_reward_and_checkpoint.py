"""Reward and Checkpoint: they look and never act; sealed checkpoints come back unaltered or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import Episode, Refused, content, value
from tests.compliance.wire import Wire, Wires


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


def graded(response: pb.RewardResponse) -> tuple[int, float, float]:
    """Step index, grade, and how often this copy was graded."""
    (component,) = response.components
    assert component.name == "graded"
    return response.index, response.value, component.value


@pytest.fixture(params=["tally", "tally-thread", "tally-process"])
async def tally(request: pytest.FixtureRequest, wire: Wire) -> Episode:
    """An episode at step 0."""
    episode = Episode(request.param)
    await wire.reset(episode, seed=7)
    return episode


async def test_the_grade_is_cached_until_the_next_step(wire: Wire, tally: Episode):
    first = await wire.reward(tally)
    assert graded(first) == (0, 7.0, 1.0)
    assert (first.valid, first.rationale) == (True, "the total")
    assert await wire.reward(tally) == first
    await wire.step(tally, 1, 5)
    assert graded(await wire.reward(tally)) == (1, 12.0, 2.0)
    assert graded(await wire.reward(tally)) == (1, 12.0, 2.0)


async def test_again_grades_anew(wire: Wire, tally: Episode):
    assert graded(await wire.reward(tally)) == (0, 7.0, 1.0)
    assert graded(await wire.reward(tally, again=True)) == (0, 7.0, 2.0)
    assert graded(await wire.reward(tally)) == (0, 7.0, 2.0), "and is the cached reply from then on"


async def test_grading_is_no_step(wire: Wire, tally: Episode):
    stepped = await wire.step(tally, 1, 5)
    await wire.reward(tally)
    assert await wire.step(tally, 1, 5) == stepped
    assert content((await wire.step(tally, 2, 5)).observation) == 17


async def test_an_ended_episode_is_graded_until_it_is_closed(wire: Wire, tally: Episode):
    await wire.step(tally, 1, 0)
    assert graded(await wire.reward(tally)) == (1, 7.0, 1.0)
    assert graded(await wire.reward(tally, again=True)) == (1, 7.0, 2.0)
    await wire.close(tally)
    assert (await refusal(wire.reward(tally))).verdict == "NOT_FOUND EPISODE_UNKNOWN"


async def test_what_an_environment_cannot_do_is_refused(wire: Wire):
    episode = Episode("gate")
    await wire.reset(episode)
    for command in (wire.reward(episode), wire.checkpoint(episode)):
        refused = await refusal(command)
        assert refused.verdict == "FAILED_PRECONDITION UNSUPPORTED"
        assert refused.failure is None
    assert content((await wire.step(episode, 1, "go on")).observation) == "go on"


async def test_a_grade_that_is_no_number_ends_the_episode(wire: Wire):
    episode = Episode("faulty")
    await wire.reset(episode)
    refused = await refusal(wire.reward(episode))
    assert refused.verdict == "UNKNOWN REWARD_INVALID"
    assert refused.cause == "REWARD_INVALID"
    assert "nan" in refused.message
    assert (await refusal(wire.step(episode, 1, "go on"))).reason == "REWARD_INVALID"


# ---- checkpoints


@pytest.fixture
async def saved(wire: Wire) -> Episode:
    """An episode at step 2, total 15, that can be checkpointed."""
    episode = Episode("saved")
    await wire.reset(episode, seed=7)
    await wire.step(episode, 1, 5)
    await wire.step(episode, 2, 3)
    return episode


def journal_of(*sealed: pb.SealedCheckpoint) -> pb.Journal:
    return pb.Journal(
        format_version=1, entries=[pb.JournalEntry(checkpoint=checkpoint) for checkpoint in sealed]
    )


async def test_a_checkpoint_says_its_step_and_carries_the_last_outcome(wire: Wire, saved: Episode):
    last = await wire.step(saved, 3, 1)
    sealed = await wire.checkpoint(saved)
    assert sealed.index == 3
    inside = pb.CheckpointContent.FromString(sealed.content)
    assert inside.environment == "saved@1"
    assert inside.last == last
    assert len(sealed.seal) == 32
    assert await wire.step(saved, 3, 1) == last, "a checkpoint is no step"


async def test_an_episode_goes_on_from_its_checkpoint(wire: Wire, saved: Episode):
    sealed = await wire.checkpoint(saved)
    await wire.close(saved)
    rebuilt = saved.rebuilt()
    response = await wire.resume(rebuilt, journal=journal_of(sealed))
    assert response.replayed == 0
    assert (response.last.index, content(response.last.observation)) == (2, 15)
    assert content((await wire.step(rebuilt, 3, 5)).observation) == 20


async def test_the_steps_since_the_checkpoint_are_replayed(wire: Wire, saved: Episode):
    saved.note_checkpoint(await wire.checkpoint(saved))
    for index in (3, 4):
        await wire.step(saved, index, 10)
    await wire.close(saved)
    rebuilt = saved.rebuilt()
    response = await wire.resume(rebuilt, journal=saved.journal, return_outcomes=True)
    assert response.replayed == 2
    assert (response.last.index, content(response.last.observation)) == (4, 35)
    assert [outcome.index for outcome in response.outcomes] == [3, 4]
    assert (await wire.step(rebuilt, 4, 10)).digest == response.last.digest
    assert content((await wire.step(rebuilt, 5, 1)).observation) == 36


async def test_a_checkpoint_in_the_middle_of_a_journal(wire: Wire, saved: Episode):
    whole = saved.copied_journal()
    whole.entries.add(checkpoint=await wire.checkpoint(saved))
    last = await wire.step(saved, 3, 5)
    whole.entries.add(act=value(5).SerializeToString(), digest=last.digest)
    await wire.close(saved)
    rebuilt = saved.rebuilt()
    response = await wire.resume(rebuilt, journal=whole)
    assert (response.last.index, content(response.last.observation)) == (3, 20)
    assert content((await wire.step(rebuilt, 4, 1)).observation) == 21


async def test_divergence_after_a_checkpoint_names_the_step(wire: Wire, saved: Episode):
    saved.note_checkpoint(await wire.checkpoint(saved))
    await wire.step(saved, 3, 10)
    saved.journal.entries[1].digest ^= 1
    await wire.close(saved)
    refused = await refusal(wire.resume(saved.rebuilt(), journal=saved.journal))
    assert refused.verdict == "DATA_LOSS REPLAY_DIVERGED"
    assert "step 3 " in refused.message


async def test_a_live_copy_where_the_checkpoint_is_goes_on(wire: Wire, saved: Episode):
    saved.note_checkpoint(await wire.checkpoint(saved))
    await wire.step(saved, 3, 10)
    newer = saved.rebuilt()
    response = await wire.resume(newer, journal=saved.journal)
    assert (response.replayed, response.last.index) == (0, 3)
    assert content((await wire.step(newer, 4, 1)).observation) == 26


async def test_a_live_copy_far_from_the_checkpoint_is_rebuilt(wire: Wire, saved: Episode):
    sealed = await wire.checkpoint(saved)
    for index in (3, 4, 5):
        await wire.step(saved, index, 10)
    newer = saved.rebuilt()
    response = await wire.resume(newer, journal=journal_of(sealed))
    assert (response.last.index, content(response.last.observation)) == (2, 15)
    assert content((await wire.step(newer, 3, 1)).observation) == 16


async def test_branches_of_one_checkpoint(wire: Wire, saved: Episode):
    sealed = await wire.checkpoint(saved)
    for action in (100, 200):
        branch = saved.fork()
        await wire.resume(branch, journal=journal_of(sealed))
        assert content((await wire.step(branch, 3, action)).observation) == 15 + action


# ---- what was altered


def another_state(sealed: pb.SealedCheckpoint) -> None:
    inside = pb.CheckpointContent.FromString(sealed.content)
    inside.state.CopyFrom(value({"total": 1_000_000}))
    sealed.content = inside.SerializeToString(deterministic=True)


def another_outcome(sealed: pb.SealedCheckpoint) -> None:
    inside = pb.CheckpointContent.FromString(sealed.content)
    inside.last.reward = 1_000_000.0
    sealed.content = inside.SerializeToString(deterministic=True)


def another_environment(sealed: pb.SealedCheckpoint) -> None:
    inside = pb.CheckpointContent.FromString(sealed.content)
    inside.environment = "tally@1"
    sealed.content = inside.SerializeToString(deterministic=True)


def another_version(sealed: pb.SealedCheckpoint) -> None:
    inside = pb.CheckpointContent.FromString(sealed.content)
    inside.environment = "saved@2"
    sealed.content = inside.SerializeToString(deterministic=True)


def another_step(sealed: pb.SealedCheckpoint) -> None:
    sealed.index += 1


def another_seal(sealed: pb.SealedCheckpoint) -> None:
    sealed.seal = bytes([sealed.seal[0] ^ 1]) + sealed.seal[1:]


def no_seal(sealed: pb.SealedCheckpoint) -> None:
    sealed.seal = b""


def nothing_inside(sealed: pb.SealedCheckpoint) -> None:
    sealed.content = b""


ALTERATIONS = [
    another_state,
    another_outcome,
    another_environment,
    another_version,
    another_step,
    another_seal,
    no_seal,
    nothing_inside,
]


@pytest.mark.parametrize("alter", ALTERATIONS, ids=lambda alter: alter.__name__)
async def test_an_altered_checkpoint_is_not_yours(
    wire: Wire, saved: Episode, alter: Callable[[pb.SealedCheckpoint], None]
):
    sealed = await wire.checkpoint(saved)
    alter(sealed)
    branch = saved.fork()
    refused = await refusal(wire.resume(branch, journal=journal_of(sealed)))
    assert refused.verdict == "PERMISSION_DENIED NOT_YOURS"
    assert refused.failure is None
    assert content((await wire.step(saved, 3, 5)).observation) == 20


async def test_a_refused_checkpoint_leaves_the_live_copy_alone(wires: Wires):
    """A forged journal does not even fence."""
    wire = await wires()
    saved = Episode("saved")
    await wire.reset(saved, seed=7)
    sealed = await wire.checkpoint(saved)
    for index in (1, 2, 3):
        await wire.step(saved, index, 1)
    another_state(sealed)
    refused = await refusal(wire.resume(saved.rebuilt(), journal=journal_of(sealed)))
    assert refused.reason == "NOT_YOURS"
    assert content((await wire.step(saved, 4, 5)).observation) == 15


async def test_content_that_cannot_be_decoded(wire: Wire, saved: Episode):
    sealed = await wire.checkpoint(saved)
    sealed.content = b"\xff\xff\xff"
    refused = await refusal(wire.resume(saved.fork(), journal=journal_of(sealed)))
    assert refused.verdict in ("INVALID_ARGUMENT MALFORMED", "PERMISSION_DENIED NOT_YOURS")
