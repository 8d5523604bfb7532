"""Heartbeats, challenges, and `taken`: how the two ends of a stream know of each other."""

from __future__ import annotations

import asyncio
import contextlib
import time

import grpc
import pytest

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import Episode, Refused, content, value
from tests.compliance.stream import Row, Stream
from tests.compliance.wire import StreamWire


def beats(stream: Stream) -> list[pb.Heartbeat]:
    """The host's signs of life so far."""
    return [frame.heartbeat for frame in stream.frames if frame.HasField("heartbeat")]


async def another_beat(stream: Stream) -> None:
    """Wait for the host's next one."""
    heard = len(beats(stream))
    await stream.until(lambda: len(beats(stream)) > heard)


async def test_a_host_sends_a_heartbeat_at_least_every_third_of_the_window(channel: grpc.aio.Channel):
    async with Stream.opened(channel, window=3.0) as stream:
        assert stream.welcome.liveness_window.ToMilliseconds() == 3000
        began = time.monotonic()
        await stream.until(lambda: len(beats(stream)) >= 4)
        took = time.monotonic() - began
        assert [beat.sequence for beat in beats(stream)[:4]] == [1, 2, 3, 4]
        assert not any(beat.challenge for beat in beats(stream)[:1])
    assert took < 4 * 1.0 + 2.0, "with two seconds for a machine that has more to do"


@pytest.mark.parametrize("window", [1.0, 1.5])
async def test_also_in_a_short_window(channel: grpc.aio.Channel, window: float):
    """Counted, for a busy machine measures itself: so many heartbeats in so many windows."""
    async with Stream.opened(channel, window=window) as stream:
        stream.answers_challenges = False
        began = time.monotonic()
        await stream.until(lambda: time.monotonic() - began > 2 * window)
        assert len(beats(stream)) >= 2 * 3 - 1


async def test_after_a_silence_a_host_begins_nothing_until_its_challenge_is_answered(
    channel: grpc.aio.Channel,
):
    async with Stream.opened(channel, window=1.0) as stream:
        stream.answers_challenges = False
        wire = StreamWire(channel, stream)
        episode = Episode("tally")
        await wire.reset(episode, seed=7)
        handle = wire.handle(episode)
        began = time.monotonic()
        await stream.until(lambda: time.monotonic() - began > 1.5)  # its heartbeats wake us; we say nothing

        await stream.send(Row(handle, index=1, payload=value(5).SerializeToString()))
        await stream.until(lambda: stream.challenge > 0)
        heard = len(beats(stream))
        await stream.until(lambda: len(beats(stream)) > heard + 1)
        assert not [event for event in stream.events if event.handle == handle], "nothing has begun"

        stream.answers_challenges = True
        await stream.beat(stream.challenge)
        assert content((await stream.answer(handle, 1)).outcome().observation) == 12
        await wire.leave()


async def test_who_was_given_up_is_closed_before_anything_begins(channel: grpc.aio.Channel):
    """The client rebuilt the episode elsewhere meanwhile: its copy here goes first, its held step never begins."""
    async with Stream.opened(channel, window=1.0) as stream:
        stream.answers_challenges = False
        wire = StreamWire(channel, stream)
        episode = Episode("tally")
        await wire.reset(episode, seed=7)
        handle = wire.handle(episode)
        began = time.monotonic()
        await stream.until(lambda: time.monotonic() - began > 1.5)
        await stream.send(Row(handle, pb.COMMAND_KIND_CLOSE, index=50))
        await stream.until(lambda: stream.challenge > 0)
        await stream.send_frame(
            pb.StreamRequest(
                heartbeat=pb.Heartbeat(sequence=1, answer=stream.challenge),
                handles=[handle],
                indices=[1],
                payloads=[value(5).SerializeToString()],
            )
        )
        assert (await stream.answer(handle, 50)).kind == pb.EVENT_KIND_CLOSED
        refused = await stream.next_event(lambda event: event.handle == handle and event.index == 1)
        assert refused.refusal().reason == "EPISODE_UNKNOWN"


async def test_an_answer_to_a_challenge_that_was_never_given_means_nothing(channel: grpc.aio.Channel):
    async with Stream.opened(channel, window=1.0) as stream:
        stream.answers_challenges = False
        await stream.beat(answer=10**9)
        began = time.monotonic()
        await stream.until(lambda: time.monotonic() - began > 1.5)
        await stream.send(Row(1, index=1))
        await stream.until(lambda: stream.challenge > 0)
        heard = len(beats(stream))
        await stream.until(lambda: len(beats(stream)) > heard + 1)
        assert not stream.events
        stream.answers_challenges = True
        await stream.beat(answer=stream.challenge)
        event = await stream.next_event(lambda event: event.handle == 1)
        assert event.refusal().reason == "EPISODE_UNKNOWN"


async def test_a_client_that_beats_is_never_challenged(channel: grpc.aio.Channel):
    async with Stream.opened(channel, window=2.0) as stream:
        stream.answers_challenges = False
        for _ in range(8):
            await stream.beat()
            await another_beat(stream)
        assert stream.challenge == 0


async def test_what_waits_for_an_answer_is_bounded(channel: grpc.aio.Channel):
    """A client that goes on and on without answering is hung up on."""
    async with Stream.opened(channel, window=1.0) as stream:
        stream.answers_challenges = False
        began = time.monotonic()
        await stream.until(lambda: time.monotonic() - began > 1.5)

        with contextlib.suppress(asyncio.InvalidStateError, Refused):
            while not stream.ended:
                await stream.send(Row(1, index=1))
        # A write that comes too late hides the host's reason behind one of the client's own library.
        assert (await stream.over()).verdict in ("INVALID_ARGUMENT ARGUMENT_INVALID", "INTERNAL ")
    async with Stream.opened(channel) as another:
        await another.send(Row(1, index=1))
        assert (
            await another.next_event(lambda event: event.handle == 1)
        ).refusal().reason == "EPISODE_UNKNOWN"


# ---- taken


async def test_taken_counts_the_requests_of_the_stream(stream_wire: StreamWire):
    stream = stream_wire.stream
    for _ in range(5):
        await stream.send(Row(1, index=1), Row(2, index=1))
    await stream.until(lambda: stream.frames[-1].taken == 5)
    counted = [frame.taken for frame in stream.frames]
    assert counted == sorted(counted)


async def test_taken_is_told_where_there_is_nothing_to_answer(stream_wire: StreamWire):
    """An ACKNOWLEDGE has no answer, a heartbeat neither."""
    stream = stream_wire.stream
    await stream.send(Row(1, pb.COMMAND_KIND_ACKNOWLEDGE))
    await stream.until(lambda: stream.frames[-1].taken == 1)
    await stream.beat()
    await stream.until(lambda: stream.frames[-1].taken == 2)
    assert not stream.events


async def test_taken_is_of_each_stream_by_itself(stream_wire: StreamWire, channel: grpc.aio.Channel):
    main = stream_wire.stream
    large = Stream.opened(
        stream_wire.channel,
        client_id=main.client_id,
        connection_id=main.connection_id,
        role=pb.STREAM_ROLE_LARGE,
    )
    async with large as second:
        for _ in range(3):
            await second.send(Row(1, pb.COMMAND_KIND_ACKNOWLEDGE))
        await second.until(lambda: second.frames[-1].taken == 3)
        await main.send(Row(1, pb.COMMAND_KIND_ACKNOWLEDGE))
        await main.until(lambda: main.frames[-1].taken >= 1)
        assert main.frames[-1].taken == 1
