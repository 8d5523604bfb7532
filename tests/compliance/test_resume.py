"""Journals, resumption and forks: an episode is rebuilt from what its client keeps, and every outcome is compared."""

from __future__ import annotations

from typing import Any

import pytest

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import Episode, Refused, content, value
from tests.compliance.wire import UnaryWire, Wire

ISOLATIONS = ["tally", "tally-thread", "tally-process"]


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


@pytest.fixture(params=ISOLATIONS)
async def played(request: pytest.FixtureRequest, wire: Wire) -> Episode:
    """An episode at step 3 (observations 9, 14, 12, 13), closed: its copy is gone, its journal is here."""
    episode = Episode(request.param)
    await wire.reset(episode, seed=7, options={"start": 2})
    for index, action in enumerate((5, -2, 1), 1):
        await wire.step(episode, index, action)
    await wire.close(episode)
    return episode


async def test_an_episode_is_rebuilt_from_its_journal(wire: Wire, played: Episode):
    rebuilt = played.rebuilt()
    response = await wire.resume(rebuilt, journal=played.journal)
    assert response.replayed == 3
    assert not response.outcomes
    assert (response.last.index, content(response.last.observation), response.last.reward) == (3, 13, 1.0)
    assert content((await wire.step(rebuilt, 4, 10)).observation) == 23


async def test_the_last_step_before_the_loss_is_cached_again(wire: Wire, played: Episode):
    rebuilt = played.rebuilt()
    response = await wire.resume(rebuilt, journal=played.journal)
    assert (await wire.step(rebuilt, 3, 1)).digest == response.last.digest
    assert (await refusal(wire.step(rebuilt, 3, 2))).verdict == "ABORTED STEP_CONFLICT"
    assert (await refusal(wire.step(rebuilt, 2, -2))).verdict == "OUT_OF_RANGE STEP_INDEX"


async def test_every_replayed_outcome_is_returned_where_asked_for(wire: Wire, played: Episode):
    response = await wire.resume(played.rebuilt(), journal=played.journal, return_outcomes=True)
    assert [outcome.index for outcome in response.outcomes] == [0, 1, 2, 3]
    assert [content(outcome.observation) for outcome in response.outcomes] == [9, 14, 12, 13]
    assert [outcome.digest for outcome in response.outcomes] == [
        entry.digest for entry in played.journal.entries
    ]
    assert response.outcomes[3] == response.last


async def test_a_journal_under_a_new_id_is_a_fork(wire: Wire, played: Episode):
    branches = [played.fork(), played.fork()]
    for branch in branches:
        await wire.resume(branch, journal=played.journal)
    for branch, action in zip(branches, (100, 200), strict=True):
        assert content((await wire.step(branch, 4, action)).observation) == 13 + action


async def test_a_fork_leaves_the_living_alone(wire: Wire):
    episode = Episode("tally")
    await wire.reset(episode, seed=7)
    branch = episode.fork()
    await wire.resume(branch, journal=episode.journal)
    assert content((await wire.step(branch, 1, 100)).observation) == 107
    assert content((await wire.step(episode, 1, 1)).observation) == 8


async def test_an_ended_journal_may_be_resumed_to_be_graded(wire: Wire):
    episode = Episode("tally")
    await wire.reset(episode, seed=7)
    await wire.step(episode, 1, 0)
    await wire.close(episode)
    rebuilt = episode.rebuilt()
    response = await wire.resume(rebuilt, journal=episode.journal)
    assert response.last.terminated
    assert (await wire.reward(rebuilt)).value == 7.0
    assert (await refusal(wire.step(rebuilt, 2, 1))).verdict == "FAILED_PRECONDITION EPISODE_ENDED"


# ---- a live copy is taken over instead


async def test_a_live_copy_that_is_where_the_journal_is_goes_on(wire: Wire):
    episode = Episode("tally")
    await wire.reset(episode, seed=7)
    last = await wire.step(episode, 1, 5)
    newer = episode.rebuilt()
    response = await wire.resume(newer, journal=episode.journal)
    assert response.replayed == 0
    assert response.last == last
    assert content((await wire.step(newer, 2, 5)).observation) == 17


async def test_a_live_copy_one_step_ahead_goes_on(wire: Wire):
    """Its last reply was lost: the client sends that step again and gets it from the cache."""
    episode = Episode("tally")
    await wire.reset(episode, seed=7)
    behind = episode.copied_journal()
    last = await wire.step(episode, 1, 5)
    newer = episode.rebuilt()
    assert (await wire.resume(newer, journal=behind)).replayed == 0
    assert await wire.step(newer, 1, 5) == last
    assert content((await wire.step(newer, 2, 5)).observation) == 17


async def test_a_live_copy_elsewhere_is_rebuilt(wire: Wire):
    """The journal counts, for the client is the one judge of what happened."""
    episode = Episode("tally")
    await wire.reset(episode, seed=7)
    early = episode.copied_journal()
    for index in (1, 2, 3):
        await wire.step(episode, index, 5)
    newer = episode.rebuilt()
    response = await wire.resume(newer, journal=early)
    assert (response.last.index, content(response.last.observation)) == (0, 7)
    assert content((await wire.step(newer, 1, 1)).observation) == 8


async def test_resume_again_is_the_same(wire: Wire, played: Episode):
    rebuilt = played.rebuilt()
    first = await wire.resume(rebuilt, journal=played.journal)
    again = await wire.resume(rebuilt, journal=played.journal)
    assert again.last == first.last


# ---- what is refused


@pytest.mark.parametrize("step", [0, 1, 3])
async def test_another_outcome_than_before_is_data_loss_and_names_the_step(
    wire: Wire, played: Episode, step: int
):
    forged = played.copied_journal()
    forged.entries[step].digest ^= 1
    neighbour = Episode(played.environment)
    await wire.reset(neighbour, seed=1)
    rebuilt = played.rebuilt()
    refused = await refusal(wire.resume(rebuilt, journal=forged))
    assert refused.verdict == "DATA_LOSS REPLAY_DIVERGED"
    assert f"step {step} " in refused.message
    assert refused.cause == "REPLAY_DIVERGED"
    assert content((await wire.step(neighbour, 1, 1)).observation) == 2
    await wire.close(rebuilt)


@pytest.mark.parametrize(
    ("environment", "verdict"),
    [
        ("{name}@2", "FAILED_PRECONDITION VERSION_MISMATCH"),
        ("{name}@0.9", "FAILED_PRECONDITION VERSION_MISMATCH"),
    ],
)
async def test_another_version_is_refused_and_never_data_loss(
    wire: Wire, played: Episode, environment: str, verdict: str
):
    other = played.copied_journal()
    other.entries[0].reset.environment = environment.format(name=played.environment)
    refused = await refusal(wire.resume(played.rebuilt(), journal=other))
    assert refused.verdict == verdict
    assert refused.failure is None


async def test_another_environment_is_refused(wire: Wire, played: Episode):
    other = played.copied_journal()
    other.entries[0].reset.environment = "nowhere@1"
    refused = await refusal(wire.resume(played.rebuilt(), journal=other))
    assert refused.verdict in ("NOT_FOUND ENVIRONMENT_UNKNOWN", "FAILED_PRECONDITION VERSION_MISMATCH")


async def test_a_journal_format_of_the_future_is_refused(wire: Wire, played: Episode):
    other = played.copied_journal()
    other.format_version = 2
    refused = await refusal(wire.resume(played.rebuilt(), journal=other))
    assert refused.verdict == "FAILED_PRECONDITION VERSION_MISMATCH"


def without_a_beginning(journal: pb.Journal) -> None:
    del journal.entries[0]


def acting_after_the_end(journal: pb.Journal) -> None:
    journal.entries[1].act = value(0).SerializeToString()
    journal.entries[1].digest = 0


def with_an_unknown_entry(journal: pb.Journal) -> None:
    journal.entries.add()


def with_a_broken_action(journal: pb.Journal) -> None:
    journal.entries[2].act = b"\xff\xff"


@pytest.mark.parametrize(
    ("spoil", "verdicts"),
    [
        (without_a_beginning, {"INVALID_ARGUMENT MALFORMED"}),
        (with_an_unknown_entry, {"INVALID_ARGUMENT MALFORMED"}),
        (with_a_broken_action, {"INVALID_ARGUMENT ACTION_INVALID", "INVALID_ARGUMENT MALFORMED"}),
        (acting_after_the_end, {"DATA_LOSS REPLAY_DIVERGED", "INVALID_ARGUMENT MALFORMED"}),
    ],
)
async def test_a_journal_that_is_none(wire: Wire, played: Episode, spoil: Any, verdicts: set[str]):
    other = played.copied_journal()
    spoil(other)
    rebuilt = played.rebuilt()
    assert (await refusal(wire.resume(rebuilt, journal=other))).verdict in verdicts
    await wire.close(rebuilt)
    assert (await wire.resume(rebuilt.rebuilt(), journal=played.journal)).last.index == 3


async def test_without_a_journal_there_is_nothing_to_rebuild(wire: Wire):
    refused = await refusal(wire.resume(Episode("tally"), attach_token=b"x" * 40))
    assert refused.verdict == "NOT_FOUND EPISODE_UNKNOWN"


@pytest.mark.parametrize("length", [0, 15, 17])
async def test_an_episode_id_is_16_bytes(wire: Wire, played: Episode, length: int):
    odd = played.fork()
    odd.episode_id = b"x" * length
    assert (await refusal(wire.resume(odd, journal=played.journal))).verdict == (
        "INVALID_ARGUMENT ARGUMENT_INVALID"
    )
    assert (await refusal(wire.reset(odd))).verdict == "INVALID_ARGUMENT ARGUMENT_INVALID"


# ---- taking a lost copy back with the slot it had


async def test_a_copy_that_failed_is_rebuilt_in_its_place(unary_wire: UnaryWire):
    episode = Episode("tally")
    await unary_wire.reset(episode, seed=7)
    await unary_wire.step(episode, 1, 5)
    diverged = episode.rebuilt()
    forged = episode.copied_journal()
    forged.entries[1].digest ^= 1
    await unary_wire.close(episode)
    assert (await refusal(unary_wire.resume(diverged, journal=forged))).reason == "REPLAY_DIVERGED"
    response = await unary_wire.resume(diverged.rebuilt(), journal=episode.journal)
    assert response.last.index == 1


async def test_resets_and_resumptions_that_are_refused_hold_no_slot(unary_wire: UnaryWire):
    """Two slots, and many refusals: there is still room."""
    wire = unary_wire
    episode = Episode("scarce")
    await wire.reset(episode, seed=7)
    await wire.close(episode)
    forged = episode.copied_journal()
    forged.format_version = 9
    for _ in range(3):
        assert (await refusal(wire.resume(episode.rebuilt(), journal=forged))).reason == "VERSION_MISMATCH"
        assert (await refusal(wire.reset(Episode("scarce"), options={"no": 1}))).reason == "OPTION_UNKNOWN"
    await wire.reset(Episode("scarce"))
    await wire.reset(Episode("scarce"))
