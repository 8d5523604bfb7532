"""What is saved, and who hears of it, where a client goes away, comes back, or asks for more than it can take."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from envmesh.v1 import environment_pb2 as pb
from envmesh.values import encode
from tests.compliance.stream import Event, events_of
from tests.integration.engine_parts import (
    WAITING_SEED,
    EngineClient,
    Gate,
    Gated,
    GatedChancy,
    GatedHost,
    GatedStore,
    host_of,
    journal_from,
)

REWARD, CHECKPOINT = pb.COMMAND_KIND_REWARD, pb.COMMAND_KIND_CHECKPOINT
OUTCOME, SAVED, GRADED = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_CHECKPOINT, pb.EVENT_KIND_REWARD
RESUMED, FAILURE, CLOSED = pb.EVENT_KIND_RESUMED, pb.EVENT_KIND_FAILURE, pb.EVENT_KIND_CLOSED
EPISODE = secrets.token_bytes(16)
SMALL_FRAMES = 1 << 20
"""``max_frame_bytes`` of a client that takes no value of 1 MiB."""


@pytest.fixture
async def host() -> AsyncIterator[GatedHost]:
    async with host_of(Gated) as host:
        yield host


@pytest.fixture
async def chancy() -> AsyncIterator[GatedHost]:
    async with host_of(GatedChancy) as host:
        yield host


async def begun(host: GatedHost, *kinds: int, **hello: int) -> tuple[EngineClient, list[Event]]:
    """A client whose episode has begun, and what it was told by then."""
    client = host.client(**hello)
    client.begin(EPISODE)
    return client, await client.told(*kinds, OUTCOME)


async def acted(client: EngineClient, index: int, action: str) -> Event:
    """The outcome of a step."""
    client.step(index, action)
    (event,) = await client.told(OUTCOME)
    return event


def checkpoint_of(event: Event) -> pb.SealedCheckpoint:
    return pb.SealedCheckpoint.FromString(event.payload)


# ---- what is large


async def test_a_checkpoint_carries_a_large_outcome_that_was_acknowledged(host: GatedHost):
    client, _ = await begun(host)
    outcome = (await acted(client, 1, "large")).outcome()
    client.send(pb.COMMAND_KIND_ACKNOWLEDGE, 1)
    client.send(CHECKPOINT, 1)
    (event,) = await client.told(SAVED)
    assert pb.CheckpointContent.FromString(checkpoint_of(event).content).last == outcome


async def test_a_checkpoint_that_its_client_cannot_take_is_refused_and_the_episode_goes_on(host: GatedHost):
    client, _ = await begun(host, max_frame_bytes=SMALL_FRAMES, checkpoint_steps=2)
    await acted(client, 1, "heavy")
    client.send(CHECKPOINT, 1)
    (failure,) = await client.told(FAILURE)
    assert failure.refusal().reason == "UNSUPPORTED"
    assert "983,040" in failure.refusal().message
    for index in range(2, 6):  # at two of these one is due that nobody asked for
        await acted(client, index, "on")
        await host.at_rest(EPISODE)


async def test_a_grade_that_its_client_cannot_take_ends_its_episode_by_name(host: GatedHost):
    client, _ = await begun(host, max_frame_bytes=SMALL_FRAMES)
    await acted(client, 1, "heavy")
    for _ in range(2):
        client.send(REWARD, 1)
        (failure,) = await client.told(FAILURE)
        assert failure.refusal().reason == "MESSAGE_TOO_LARGE"
    other = host.client()
    other.begin(secrets.token_bytes(16))
    await other.told(OUTCOME)
    await acted(other, 1, "heavy")
    other.send(REWARD, 1)
    await other.told(GRADED)


# ---- outcomes that could not be replayed


async def test_an_outcome_that_came_while_nobody_was_there_is_not_told_without_a_checkpoint(
    chancy: GatedHost,
):
    client, (saved, _) = await begun(chancy, SAVED)
    client.step(1, "wait")
    await Gated.gate.reached()
    client.connection.lost()
    Gated.gate.open()
    await chancy.at_rest(EPISODE)
    again = chancy.client()
    again.resume(EPISODE, 1, journal_from(saved))
    (resumed,) = await again.told(RESUMED)
    assert pb.ResumeResponse.FromString(resumed.payload).last.index == 0
    again.step(1, "wait")
    saved, outcome = await again.told(SAVED, OUTCOME)
    assert outcome.index == checkpoint_of(saved).index == 1


async def test_nor_is_that_of_a_reset_which_is_sent_again(chancy: GatedHost):
    client = chancy.client()
    client.begin(EPISODE, WAITING_SEED)
    await Gated.gate.reached()
    client.connection.lost()
    Gated.gate.open()
    await chancy.at_rest(EPISODE)
    again = chancy.client()
    for kinds in ((SAVED, OUTCOME), (OUTCOME,)):
        again.begin(EPISODE, WAITING_SEED)
        await again.told(*kinds)


async def test_an_outcome_that_waits_for_its_checkpoint_goes_with_it_to_who_comes_back(chancy: GatedHost):
    client, _ = await begun(chancy, SAVED)
    client.step(1, "save slowly")
    await Gated.gate.reached()
    client.connection.lost()
    again = chancy.client()
    again.connection._bind_copy(1, chancy.engine.episodes[EPISODE])
    again.step(1, "save slowly")
    Gated.gate.open()
    await again.told(SAVED, OUTCOME)


async def test_a_checkpoint_comes_once_before_all_outcomes_of_a_step_that_was_sent_again(chancy: GatedHost):
    client, _ = await begun(chancy, SAVED)
    for _ in range(3):
        client.step(1, "save slowly")
        await Gated.gate.reached()
    Gated.gate.open()
    saved, *outcomes = await client.told(SAVED, OUTCOME, OUTCOME, OUTCOME)
    assert {event.index for event in (saved, *outcomes)} == {1}
    assert len({event.digest for event in outcomes}) == 1
    assert (await acted_and_saved(client, 2, "on")).index == 2


async def test_a_large_checkpoint_has_all_outcomes_behind_it_on_its_stream(chancy: GatedHost):
    client, _ = await begun(chancy, SAVED)
    await acted_and_saved(client, 1, "heavy")
    client.connection.has_large_stream = True
    for _ in range(2):
        client.step(2, "save slowly")
        await Gated.gate.reached()
    Gated.gate.open()
    await chancy.at_rest(EPISODE)
    assert (len(client.connection.large), len(client.connection.outbox)) == (3, 0)
    (first,) = events_of(client.connection.large.take(1))
    assert first.kind == SAVED


async def acted_and_saved(client: EngineClient, index: int, action: str) -> Event:
    """The outcome of a step that could not be replayed."""
    client.step(index, action)
    _, outcome = await client.told(SAVED, OUTCOME)
    return outcome


# ---- checkpoints whose client was away when they were done


@pytest.fixture
def store(host: GatedHost, tmp_path: Path) -> Iterator[GatedStore]:
    store = GatedStore(tmp_path.as_uri(), inline_bytes=1)
    host.engine.use_store(store)
    yield store
    store.close()


@pytest.mark.parametrize("kept", ["stored", "inline"])
async def test_a_checkpoint_that_was_asked_for_is_told_to_who_has_the_copy_when_it_is_done(
    host: GatedHost, kept: str, request: pytest.FixtureRequest
):
    store = request.getfixturevalue("store") if kept == "stored" else None
    client, _ = await begun(host)
    client.send(CHECKPOINT, 0)
    (first,) = await client.told(SAVED)
    journal = journal_from(first)
    outcome = await acted(client, 1, "on" if store else "save slowly")
    journal.entries.add(act=encode("on" if store else "save slowly"), digest=outcome.digest)
    gate = Gated.gate
    if store is not None:
        gate = store.gate = Gate()
    client.send(CHECKPOINT, 1)
    await gate.reached()
    client.connection.lost()
    again = host.client()
    again.resume(EPISODE, 1, journal)
    await again.told(RESUMED)
    gate.open()
    (second,) = await again.told(SAVED)
    assert checkpoint_of(second).index == 1
    if store is not None:
        assert checkpoint_of(second).reference not in ("", checkpoint_of(first).reference)


# ---- grades that come while the host saves by itself


async def test_a_grade_that_comes_while_the_host_saves_is_given_afterwards(host: GatedHost):
    client, _ = await begun(host, checkpoint_steps=1)
    await acted(client, 1, "save slowly")
    await Gated.gate.reached()
    client.send(REWARD, 1)
    client.send(REWARD, 1)
    Gated.gate.open()
    saved, *graded = await client.told(SAVED, GRADED, GRADED)
    assert checkpoint_of(saved).index == 1
    assert [pb.RewardResponse.FromString(event.payload).index for event in graded] == [1, 1]
    assert (await acted(client, 2, "on")).index == 2


async def test_a_grade_that_waits_hears_that_the_episode_was_closed(host: GatedHost):
    client, _ = await begun(host, checkpoint_steps=1)
    await acted(client, 1, "save slowly")
    await Gated.gate.reached()
    client.send(REWARD, 1)
    client.send(pb.COMMAND_KIND_CLOSE, 1)
    failure, _ = await client.told(FAILURE, CLOSED)
    assert failure.refusal().reason == "CANCELLED"


async def test_no_step_overtakes_a_grade_that_waits_nor_a_grade_a_step(host: GatedHost):
    client, _ = await begun(host, checkpoint_steps=1)
    await acted(client, 1, "save slowly")
    await Gated.gate.reached()
    client.send(REWARD, 1)
    client.step(2, "on")
    (failure,) = await client.told(FAILURE)
    assert "the grading waits behind the checkpoint" in failure.refusal().message
    Gated.gate.open()
    await client.told(SAVED, GRADED)
    Gated.gate = Gate()
    await acted(client, 2, "save slowly")
    await Gated.gate.reached()
    client.step(3, "on")
    client.send(REWARD, 2)
    (failure,) = await client.told(FAILURE)
    assert failure.refusal().reason == "STEP_INDEX"
    Gated.gate.open()
    await client.told(SAVED, OUTCOME)
