"""Epochs: of two copies or two owners of one episode, the newer counts, and the older one is told so."""

from __future__ import annotations

from typing import Any

import pytest

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import NEXT_OWNER, Episode, Refused, content
from tests.compliance.wire import StreamWire, UnaryWire, Wire, Wires

STALE = "ABORTED EPOCH_STALE"
UNKNOWN = "NOT_FOUND EPISODE_UNKNOWN"


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


@pytest.fixture
async def begun(wire: Wire) -> Episode:
    """An episode at step 1, in its third rebuild under its second owner."""
    episode = Episode("tally", epoch=2 * NEXT_OWNER + 3)
    await wire.reset(episode, seed=7)
    await wire.step(episode, 1, 5)
    return episode


OLDER = [-1, -3, -NEXT_OWNER, -NEXT_OWNER + 100]
NEWER = [1, 100, NEXT_OWNER, NEXT_OWNER - 3]


@pytest.mark.parametrize("difference", OLDER)
async def test_an_older_epoch_is_refused(wire: Wire, begun: Episode, difference: int):
    older = begun.at_epoch(begun.epoch + difference)
    for command in (wire.reset(older, seed=7), wire.resume(older, journal=begun.journal)):
        refused = await refusal(command)
        assert refused.verdict == STALE
        assert refused.failure is None
    assert content((await wire.step(begun, 2, 5)).observation) == 17


@pytest.mark.parametrize("difference", OLDER)
async def test_every_unary_call_is_judged_by_its_epoch(unary_wire: UnaryWire, difference: int):
    wire = unary_wire
    episode = Episode("saved", epoch=2 * NEXT_OWNER + 3)
    await wire.reset(episode, seed=7)
    older = episode.at_epoch(episode.epoch + difference)
    for command in (wire.step(older, 1, 5), wire.reward(older), wire.checkpoint(older), wire.close(older)):
        assert (await refusal(command)).verdict == STALE
    assert content((await wire.step(episode, 1, 5)).observation) == 12


async def test_an_equal_epoch_from_another_client_instance_is_refused(wires: Wires):
    mine, other = await wires(), await wires()
    episode = Episode("tally")
    await mine.reset(episode, seed=7)
    assert (await refusal(other.reset(episode.in_other_hands(), seed=7))).verdict == STALE
    assert (await refusal(other.resume(episode.in_other_hands(), journal=episode.journal))).verdict == STALE
    assert content((await mine.step(episode, 1, 5)).observation) == 12


@pytest.mark.parametrize("difference", NEWER)
async def test_a_newer_reset_drops_the_older_copy(wire: Wire, begun: Episode, difference: int):
    newer = begun.at_epoch(begun.epoch + difference)
    assert content((await wire.reset(newer, seed=100)).observation) == 100
    assert (await refusal(wire.step(begun, 2, 5))).verdict in (STALE, UNKNOWN)
    assert (await refusal(wire.reset(begun, seed=7))).verdict == STALE
    assert content((await wire.step(newer, 1, 1)).observation) == 101


async def test_a_newer_reset_of_another_client_drops_the_older_copy(wires: Wires):
    mine, other = await wires(), await wires()
    episode = Episode("tally")
    await mine.reset(episode, seed=7)
    newer = episode.taken_over()
    assert content((await other.reset(newer, seed=100)).observation) == 100
    assert (await refusal(mine.step(episode, 1, 5))).verdict in (STALE, UNKNOWN)
    assert (await refusal(mine.resume(episode.rebuilt(), journal=episode.journal))).verdict == STALE
    assert content((await other.step(newer, 1, 1)).observation) == 101
    await other.close(newer)


@pytest.mark.parametrize("difference", NEWER)
async def test_a_newer_resume_has_the_copy(wire: Wire, begun: Episode, difference: int):
    newer = begun.at_epoch(begun.epoch + difference)
    response = await wire.resume(newer, journal=begun.journal)
    assert (response.last.index, content(response.last.observation)) == (1, 12)
    assert (await refusal(wire.step(begun, 2, 5))).verdict in (STALE, UNKNOWN)
    assert content((await wire.step(newer, 2, 5)).observation) == 17


async def test_a_unary_command_of_a_newer_epoch_drops_the_older_copy(unary_wire: UnaryWire):
    episode = Episode("tally")
    await unary_wire.reset(episode, seed=7)
    newer = episode.rebuilt()
    assert (await refusal(unary_wire.step(newer, 1, 5))).verdict == UNKNOWN
    assert (await refusal(unary_wire.step(episode, 1, 5))).verdict == UNKNOWN


async def test_closing_under_a_newer_epoch_ends_the_older_copy(unary_wire: UnaryWire):
    """How a client that has rebuilt an episode elsewhere cleans up where it was."""
    episode = Episode("tally")
    await unary_wire.reset(episode, seed=7)
    await unary_wire.close(episode.rebuilt())
    assert (await refusal(unary_wire.step(episode, 1, 5))).verdict == UNKNOWN


async def test_the_owner_of_a_stream_is_told_of_a_takeover(streams: Wires):
    mine, other = await streams.stream(), await streams.stream()
    episode = Episode("tally")
    await mine.reset(episode, seed=7)
    await other.resume(episode.taken_over(), journal=episode.journal)
    notice = await mine.stream.notice(pb.NOTICE_KIND_TAKEN_OVER)
    assert list(notice.handles) == [mine.handle(episode)]
    assert (await refusal(mine.step(episode, 1, 5))).verdict in (STALE, UNKNOWN)


async def test_the_owner_of_a_stream_is_told_of_a_newer_reset(streams: Wires):
    mine, other = await streams.stream(), await streams.stream()
    episode = Episode("tally")
    await mine.reset(episode, seed=7)
    await other.reset(episode.taken_over(), seed=100)
    notice = await mine.stream.notice(pb.NOTICE_KIND_TAKEN_OVER)
    assert list(notice.handles) == [mine.handle(episode)]


async def test_a_rebuild_by_the_same_owner_is_no_takeover(stream_wire: StreamWire):
    wire = stream_wire
    episode = Episode("tally")
    await wire.reset(episode, seed=7)
    newer = episode.rebuilt()
    await wire.resume(newer, journal=episode.journal)
    await wire.step(newer, 1, 5)
    kinds = [
        pb.Notice.FromString(event.payload).kind
        for event in wire.stream.events
        if event.kind == pb.EVENT_KIND_NOTICE
    ]
    assert pb.NOTICE_KIND_TAKEN_OVER not in kinds


async def test_another_client_may_use_the_same_numbers_for_other_episodes(streams: Wires):
    """Handles are a connection's own."""
    mine, other = await streams.stream(), await streams.stream()
    first, second = Episode("tally"), Episode("tally")
    await mine.reset(first, seed=7)
    await other.reset(second, seed=100)
    assert mine.handle(first) == other.handle(second)
    assert content((await mine.step(first, 1, 1)).observation) == 8
    assert content((await other.step(second, 1, 1)).observation) == 101
