"""Large values: a stream of their own, so that they hold nobody up; acknowledged, so that none is kept; bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import Episode, Refused, content, value
from tests.compliance.stream import Row, Stream
from tests.compliance.wire import StreamWire, Wire, Wires

LARGE = 256 * 1024
ACKNOWLEDGED = 64 * 1024


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


@pytest.fixture
async def second(stream_wire: StreamWire) -> AsyncIterator[Stream]:
    """The second stream of the client's connection."""
    main = stream_wire.stream
    async with Stream.opened(
        stream_wire.channel,
        client_id=main.client_id,
        connection_id=main.connection_id,
        role=pb.STREAM_ROLE_LARGE,
    ) as stream:
        yield stream


@pytest.fixture
async def mirror(stream_wire: StreamWire) -> Episode:
    """An episode that answers with what it is told."""
    episode = Episode("mirror")
    await stream_wire.reset(episode)
    return episode


async def test_the_second_stream_is_welcomed(second: Stream, stream_wire: StreamWire):
    assert second.welcome.host_id == stream_wire.stream.welcome.host_id


async def test_large_answers_come_on_the_second_stream_and_small_ones_on_the_first(
    stream_wire: StreamWire, second: Stream, mirror: Episode
):
    main, handle = stream_wire.stream, stream_wire.handle(mirror)
    await main.send(Row(handle, index=1, payload=value({"bytes": 2 * LARGE}).SerializeToString()))
    large = (await second.answer(handle, 1)).outcome()
    assert content(large.observation) == bytes(2 * LARGE)
    small = (await main.ask(Row(handle, index=2, payload=value("small").SerializeToString()))).outcome()
    assert content(small.observation) == "small"
    assert not second.events
    assert not main.events


async def test_a_large_action_may_come_on_the_second_stream(
    stream_wire: StreamWire, second: Stream, mirror: Episode
):
    handle = stream_wire.handle(mirror)
    action = b"x" * (LARGE + 1)
    await second.send(Row(handle, index=1, payload=value(action).SerializeToString()))
    assert content((await second.answer(handle, 1)).outcome().observation) == action


async def test_without_a_second_stream_large_values_come_on_the_first(
    stream_wire: StreamWire, mirror: Episode
):
    outcome = await stream_wire.step(mirror, 1, {"bytes": 2 * LARGE})
    assert content(outcome.observation) == bytes(2 * LARGE)


async def test_small_steps_go_on_beside_large_ones(stream_wire: StreamWire, second: Stream, mirror: Episode):
    """Order is kept per episode only: whoever waits for a large value waits alone."""
    tally = Episode("tally")
    await stream_wire.reset(tally)
    handle = stream_wire.handle(mirror)
    for index in range(1, 6):
        payload = value({"bytes": 3_000_000}).SerializeToString()
        await stream_wire.stream.send(Row(handle, index=index, payload=payload))
        assert content((await stream_wire.step(tally, index, 5)).observation) == 5 * index
    for index in range(1, 6):
        assert len((await second.answer(handle, index)).payload) > 3_000_000


async def test_the_second_stream_belongs_to_its_client(stream_wire: StreamWire):
    main = stream_wire.stream
    for client_id, connection_id in ((b"z" * 16, main.connection_id), (main.client_id, b"z" * 16)):
        opened = Stream.opened(
            stream_wire.channel,
            client_id=client_id,
            connection_id=connection_id,
            role=pb.STREAM_ROLE_LARGE,
        )
        refused = await refusal(opened.__aenter__())
        assert refused.verdict == "INVALID_ARGUMENT ARGUMENT_INVALID"
        assert "main stream" in refused.message


async def test_the_second_stream_ends_with_the_first(channel: grpc.aio.Channel):
    async with Stream.opened(channel) as main:
        second = Stream.opened(
            channel,
            client_id=main.client_id,
            connection_id=main.connection_id,
            role=pb.STREAM_ROLE_LARGE,
        )
        async with second as stream:
            await main.hang_up()
            await stream.until(lambda: stream.ended)


async def test_the_first_stream_outlives_the_second(stream_wire: StreamWire, second: Stream, mirror: Episode):
    await second.send_bytes(b"\xff\xff\xff")
    assert (await second.over()).verdict == "INVALID_ARGUMENT MALFORMED"
    assert content((await stream_wire.step(mirror, 1, "small")).observation) == "small"
    assert len(content((await stream_wire.step(mirror, 2, {"bytes": LARGE})).observation)) == LARGE


# ---- acknowledged


async def acknowledge(wire: StreamWire, episode: Episode, index: int) -> None:
    """Say that a reply has arrived. It has no answer; `taken` says that it was heard."""
    taken = wire.stream.frames[-1].taken
    await wire.stream.send(Row(wire.handle(episode), pb.COMMAND_KIND_ACKNOWLEDGE, index=index))
    await wire.stream.until(lambda: wire.stream.frames[-1].taken > taken)


async def test_an_acknowledged_large_reply_is_dropped(stream_wire: StreamWire, mirror: Episode):
    action = {"bytes": ACKNOWLEDGED + 1}
    await stream_wire.step(mirror, 1, action)
    await acknowledge(stream_wire, mirror, 1)
    refused = await refusal(stream_wire.step(mirror, 1, action))
    assert refused.verdict == "OUT_OF_RANGE STEP_INDEX"
    assert "acknowledged" in refused.message
    assert (await refusal(stream_wire.step(mirror, 1, "another"))).verdict == "ABORTED STEP_CONFLICT"
    assert content((await stream_wire.step(mirror, 2, "next")).observation) == "next"


async def test_a_small_reply_is_kept_all_the_same(stream_wire: StreamWire, mirror: Episode):
    first = await stream_wire.step(mirror, 1, "small")
    await acknowledge(stream_wire, mirror, 1)
    assert await stream_wire.step(mirror, 1, "small") == first


@pytest.mark.parametrize("index", [0, 2, 9])
async def test_an_acknowledgement_of_another_step_drops_nothing(
    stream_wire: StreamWire, mirror: Episode, index: int
):
    action = {"bytes": ACKNOWLEDGED + 1}
    first = await stream_wire.step(mirror, 1, action)
    await acknowledge(stream_wire, mirror, index)
    assert await stream_wire.step(mirror, 1, action) == first


async def test_an_acknowledgement_for_nobody_is_no_harm(stream_wire: StreamWire, mirror: Episode):
    await acknowledge(stream_wire, Episode("mirror"), 1)
    assert content((await stream_wire.step(mirror, 1, "small")).observation) == "small"


async def test_an_episode_whose_last_reply_was_dropped_is_rebuilt_whole(
    stream_wire: StreamWire, mirror: Episode
):
    last = await stream_wire.step(mirror, 1, {"bytes": ACKNOWLEDGED + 1})
    await acknowledge(stream_wire, mirror, 1)
    await stream_wire.close(mirror)
    rebuilt = mirror.rebuilt()
    response = await stream_wire.resume(rebuilt, journal=mirror.journal)
    assert response.last == last


# ---- bounded


async def test_a_value_over_the_bound_fails_its_own_episode_by_name(wires: Wires, streams: Wires):
    wire = await wires()
    bound = (await streams.stream()).stream.welcome.max_value_bytes
    episode, neighbour = Episode("mirror"), Episode("tally")
    await wire.reset(episode)
    await wire.reset(neighbour, seed=7)
    refused = await refusal(wire.step(episode, 1, {"bytes": bound + 1}))
    assert refused.verdict == "RESOURCE_EXHAUSTED MESSAGE_TOO_LARGE"
    assert refused.cause == "MESSAGE_TOO_LARGE"
    assert "mirror@1" in refused.message
    assert f"{bound:,}" in refused.message
    assert (await refusal(wire.step(episode, 2, "small"))).reason == "MESSAGE_TOO_LARGE"
    assert content((await wire.step(neighbour, 1, 5)).observation) == 12


async def test_a_value_over_the_clients_own_bound_fails_its_own_episode(streams: Wires):
    """A client may take less than the host would send; it says so in its hello."""
    wire = await streams.stream(max_frame_bytes=LARGE)
    episode, neighbour = Episode("mirror"), Episode("mirror")
    await wire.reset(episode)
    await wire.reset(neighbour)
    refused = await refusal(wire.step(episode, 1, {"bytes": LARGE - 64 * 1024}))
    assert refused.verdict == "RESOURCE_EXHAUSTED MESSAGE_TOO_LARGE"
    fits = LARGE - 64 * 1024 - 100
    assert len(content((await wire.step(neighbour, 1, {"bytes": fits})).observation)) == fits


@pytest.mark.parametrize("bound", [0, LARGE])
async def test_frames_are_bounded_in_bytes(streams: Wires, bound: int):
    """Small values of many episodes are as much together as a large one; no frame is more than its client takes, nor
    so large that it holds up what is behind it."""
    wire = await streams.stream(max_frame_bytes=bound)
    each, count = 100_000, 100
    episodes = [Episode("mirror") for _ in range(count)]
    for episode in episodes:
        await wire.reset(episode)
    handles = [wire.handle(episode) for episode in episodes]
    payload = value({"bytes": each}).SerializeToString()
    await wire.stream.send(*(Row(handle, index=1, payload=payload) for handle in handles))
    for handle in handles:
        assert len((await wire.stream.answer(handle, 1)).payload) > each
    most = max(sum(map(len, frame.payloads)) for frame in wire.stream.frames)
    assert each < most <= (bound or 1 << 20)


async def test_a_value_just_under_the_bound_arrives(wire: Wire, streams: Wires):
    bound = (await streams.stream()).stream.welcome.max_value_bytes
    episode = Episode("mirror")
    await wire.reset(episode)
    outcome = await wire.step(episode, 1, {"bytes": bound - 1024})
    assert len(content(outcome.observation)) == bound - 1024


async def test_a_frame_over_the_bound_ends_its_stream_and_nothing_else(streams: Wires):
    wire, neighbour = await streams.stream(), await streams.stream()
    bound = wire.stream.welcome.max_frame_bytes
    mine, theirs = Episode("mirror"), Episode("tally")
    await wire.reset(mine)
    await neighbour.reset(theirs, seed=7)
    await wire.stream.send(
        Row(wire.handle(mine), index=1, payload=value(b"x" * (bound + 1)).SerializeToString())
    )
    refused = await wire.stream.over()
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.message
    assert content((await neighbour.step(theirs, 1, 5)).observation) == 12
    again = mine.taken_over()
    assert (await neighbour.resume(again, journal=mine.journal)).last.index == 0
    await neighbour.close(again)


async def test_a_unary_message_over_the_bound(streams: Wires):
    unary = await streams.unary()
    bound = (await streams.stream()).stream.welcome.max_frame_bytes
    episode = Episode("mirror")
    await unary.reset(episode)
    refused = await refusal(unary.step(episode, 1, b"x" * (bound + 1)))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert content((await unary.step(episode, 1, "small")).observation) == "small"
