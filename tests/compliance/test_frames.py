"""Frames: columns, their defaults and bounds. What is wrong with one row harms that row, what is wrong with a frame
ends its stream, and nobody else notices."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import Episode, Refused, content, value
from tests.compliance.stream import STREAM, Event, Row, Stream, events_of, frame_of
from tests.compliance.wire import StreamWire, UnaryWire, Wires, acquire

MALFORMED = "INVALID_ARGUMENT MALFORMED"
ARGUMENT = "INVALID_ARGUMENT ARGUMENT_INVALID"


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


def act(number: int) -> bytes:
    return value(number).SerializeToString()


@pytest.fixture
async def many(stream_wire: StreamWire, channel: grpc.aio.Channel) -> list[int]:
    """The handles of 100 episodes at step 0, whose totals are their handles."""
    lease = await acquire(channel, "tally", 100)
    number = await stream_wire.bind(lease.token)
    handles = list(range(1001, 1101))
    rows = [
        Row(
            handle,
            pb.COMMAND_KIND_RESET,
            payload=pb.ResetRequest(
                episode_id=Episode("tally").episode_id, epoch=1, lease_number=number, seed=handle
            ).SerializeToString(),
        )
        for handle in handles
    ]
    await stream_wire.stream.send(*rows)
    for handle in handles:
        assert content((await stream_wire.stream.answer(handle)).outcome().observation) == handle
    return handles


async def answers(stream: Stream, handles: list[int], index: int) -> dict[int, Event]:
    return {handle: await stream.answer(handle, index) for handle in handles}


# ---- columns


async def test_a_frame_of_many_commands(stream_wire: StreamWire, many: list[int]):
    await stream_wire.stream.send(*(Row(handle, index=1, payload=act(handle % 7)) for handle in many))
    for handle, event in (await answers(stream_wire.stream, many, 1)).items():
        outcome = event.outcome()
        assert content(outcome.observation) == handle + handle % 7
        assert outcome.reward == handle % 7
        assert outcome.terminated == (handle % 7 == 0)


async def test_a_column_of_defaults_may_be_there_or_not(stream_wire: StreamWire, many: list[int]):
    """Spelled out or absent, it means the same."""
    handles = many[:10]
    spelled = pb.StreamRequest(
        handles=handles,
        indices=[1] * 10,
        payloads=[act(5)] * 10,
        kinds=[pb.COMMAND_KIND_STEP] * 10,
        annotations=[b""] * 10,
        timeouts=[0] * 10,
    )
    await stream_wire.stream.send_frame(spelled)
    await answers(stream_wire.stream, handles, 1)
    await stream_wire.stream.send_frame(
        pb.StreamRequest(handles=handles, indices=[2] * 10, payloads=[act(5)] * 10)
    )
    for handle, event in (await answers(stream_wire.stream, handles, 2)).items():
        assert content(event.outcome().observation) == handle + 10


async def test_a_host_leaves_out_columns_of_defaults(stream_wire: StreamWire, many: list[int]):
    before = len(stream_wire.stream.frames)
    await stream_wire.stream.send(*(Row(handle, index=1, payload=act(-1)) for handle in many[:5]))
    await answers(stream_wire.stream, many[:5], 1)
    for frame in stream_wire.stream.frames[before:]:
        for column, default in (
            (frame.indices, 0),
            (frame.rewards, 0.0),
            (frame.flags, 0),
            (frame.digests, 0),
            (frame.kinds, pb.EVENT_KIND_OUTCOME),
            (frame.infos, b""),
        ):
            assert not column or any(each != default for each in column)
            assert len(column) in (0, len(frame.handles))


async def test_annotations_are_accepted_and_not_shown(stream_wire: StreamWire, many: list[int]):
    frame = pb.StreamRequest(
        handles=many[:2], indices=[1, 1], payloads=[act(5)] * 2, annotations=[act(99), b""]
    )
    await stream_wire.stream.send_frame(frame)
    for handle, event in (await answers(stream_wire.stream, many[:2], 1)).items():
        assert content(event.outcome().observation) == handle + 5


async def test_one_handle_twice_in_a_frame_is_taken_in_order(stream_wire: StreamWire, many: list[int]):
    handle, other = many[:2]
    await stream_wire.stream.send(
        Row(handle, index=1, payload=act(1)),
        Row(other, index=1, payload=act(5)),
        Row(handle, index=2, payload=act(2)),
        Row(handle, index=3, payload=act(3)),
    )
    for index, total in ((1, 1), (2, 3), (3, 6)):
        assert (
            content((await stream_wire.stream.answer(handle, index)).outcome().observation) == handle + total
        )
    assert content((await stream_wire.stream.answer(other, 1)).outcome().observation) == other + 5


async def test_the_same_step_twice_in_a_frame_is_one_step(stream_wire: StreamWire, many: list[int]):
    handle = many[0]
    await stream_wire.stream.send(*[Row(handle, index=1, payload=act(5))] * 3)
    events = [await stream_wire.stream.answer(handle, 1) for _ in range(3)]
    assert len({event.payload for event in events}) == 1
    assert content(events[0].outcome().observation) == handle + 5


async def test_an_episode_begins_steps_and_ends_in_one_frame(
    stream_wire: StreamWire, channel: grpc.aio.Channel
):
    """Commands of one frame are begun in the order of its rows."""
    lease = await acquire(channel, "tally")
    reset = pb.ResetRequest(episode_id=Episode("tally").episode_id, epoch=1, lease_number=90, seed=7)
    await stream_wire.stream.send(
        Row(90, pb.COMMAND_KIND_BIND, payload=lease.token),
        Row(91, pb.COMMAND_KIND_RESET, payload=reset.SerializeToString()),
        Row(91, index=1, payload=act(5)),
        Row(91, pb.COMMAND_KIND_REWARD, index=77),
        Row(91, pb.COMMAND_KIND_CLOSE, index=78),
        Row(90, pb.COMMAND_KIND_RETURN),
    )
    stream = stream_wire.stream
    assert (await stream.answer(90, 0)).kind == pb.EVENT_KIND_BOUND
    assert content((await stream.answer(91, 0)).outcome().observation) == 7
    assert content((await stream.answer(91, 1)).outcome().observation) == 12
    assert pb.RewardResponse.FromString((await stream.answer(91, 77)).payload).value == 12.0
    assert (await stream.answer(91, 78)).kind == pb.EVENT_KIND_CLOSED
    returned = await stream.answer(90)
    assert (returned.kind, returned.index) == (pb.EVENT_KIND_RETURNED, 1)


async def test_a_bad_row_harms_no_other_row(stream_wire: StreamWire, many: list[int]):
    rows = [Row(handle, index=1, payload=act(5)) for handle in many[:8]]
    rows[1] = Row(many[1], index=9, payload=act(5))
    rows[3] = Row(many[3], index=1, payload=value("five").SerializeToString())
    rows[4] = Row(many[4], index=1, payload=b"\xff\xff\xff")
    rows[6] = Row(7777, index=1, payload=act(5))
    await stream_wire.stream.send(*rows)
    for at in (0, 2, 5, 7):
        event = await stream_wire.stream.answer(many[at], 1)
        assert content(event.outcome().observation) == many[at] + 5
    for at, verdict in (
        (1, "OUT_OF_RANGE STEP_INDEX"),
        (3, "INVALID_ARGUMENT ACTION_INVALID"),
        (4, "INVALID_ARGUMENT ACTION_INVALID"),
        (6, "NOT_FOUND EPISODE_UNKNOWN"),
    ):
        refused = await refusal(stream_wire.stream.answer(rows[at].handle, rows[at].index))
        assert refused.verdict == verdict


@pytest.mark.parametrize("kind", [0, 11, 99, 2**31 - 1])
async def test_a_command_of_an_unknown_kind_fails_alone(stream_wire: StreamWire, many: list[int], kind: int):
    await stream_wire.stream.send_frame(
        pb.StreamRequest(
            handles=many[:2],
            indices=[1, 1],
            payloads=[act(5)] * 2,
            kinds=[kind, pb.COMMAND_KIND_STEP],  # type: ignore[list-item]
        )
    )
    assert (await refusal(stream_wire.stream.answer(many[0], 1))).verdict == ARGUMENT
    assert content((await stream_wire.stream.answer(many[1], 1)).outcome().observation) == many[1] + 5
    assert (await stream_wire.stream.ask(Row(many[0], index=1, payload=act(5)))).outcome().index == 1


@pytest.mark.parametrize("kind", range(1, 10))
async def test_handle_0_names_nothing(stream_wire: StreamWire, kind: int):
    await stream_wire.stream.send_frame(pb.StreamRequest(handles=[0], kinds=[kind], indices=[1]))  # type: ignore[list-item]
    event = await stream_wire.stream.next_event(lambda event: event.handle == 0)
    assert event.refusal().verdict == ARGUMENT


async def test_a_handle_names_one_episode(stream_wire: StreamWire, many: list[int]):
    for kind, request in (
        (pb.COMMAND_KIND_RESET, pb.ResetRequest(episode_id=b"x" * 16, epoch=1, lease_number=1)),
        (pb.COMMAND_KIND_RESUME, pb.ResumeRequest(episode_id=b"x" * 16, epoch=1, lease_number=1)),
    ):
        row = Row(many[0], kind, payload=request.SerializeToString())
        refused = await refusal(stream_wire.stream.ask(row))
        assert refused.verdict == ARGUMENT
        assert "another episode" in refused.message
    assert (await stream_wire.stream.ask(Row(many[0], index=1, payload=act(5)))).outcome().index == 1


async def test_a_handle_is_free_again_after_close(stream_wire: StreamWire, channel: grpc.aio.Channel):
    number = await stream_wire.bind((await acquire(channel, "tally")).token)
    for seed in (7, 8):
        request = pb.ResetRequest(
            episode_id=Episode("tally").episode_id, epoch=1, lease_number=number, seed=seed
        )
        row = Row(500, pb.COMMAND_KIND_RESET, payload=request.SerializeToString())
        assert content((await stream_wire.stream.ask(row)).outcome().observation) == seed
        await stream_wire.stream.ask(Row(500, pb.COMMAND_KIND_CLOSE))


async def test_a_reset_under_the_handle_of_an_episode_that_is_over_closes_that_first(
    stream_wire: StreamWire, channel: grpc.aio.Channel
):
    """With a lease of one slot: it is free for the new one."""
    number, stream = await stream_wire.bind((await acquire(channel, "tally")).token), stream_wire.stream
    for seed in (7, 8, 9):
        request = pb.ResetRequest(
            episode_id=Episode("tally").episode_id, epoch=1, lease_number=number, seed=seed
        )
        row = Row(500, pb.COMMAND_KIND_RESET, payload=request.SerializeToString())
        assert content((await stream.ask(row)).outcome().observation) == seed
        assert (await stream.ask(Row(500, index=1, payload=act(0)))).outcome().terminated
    assert (
        await stream.ask(Row(500, pb.COMMAND_KIND_REWARD))
    ).kind == pb.EVENT_KIND_REWARD  # the last one is still there
    bad = pb.ResetRequest(episode_id=b"x" * 16, epoch=1, lease_number=99)
    refused = await refusal(stream.ask(Row(500, pb.COMMAND_KIND_RESET, payload=bad.SerializeToString())))
    assert refused.verdict == "PERMISSION_DENIED LEASE_INVALID"
    gone = await refusal(stream.ask(Row(500, index=2, payload=act(0))))
    assert gone.verdict == "NOT_FOUND EPISODE_UNKNOWN"


@pytest.mark.parametrize(
    "kind",
    [
        pb.COMMAND_KIND_RESET,
        pb.COMMAND_KIND_RESUME,
        pb.COMMAND_KIND_REWARD,
    ],
)
async def test_a_payload_that_cannot_be_decoded_fails_alone(
    stream_wire: StreamWire, many: list[int], kind: int
):
    handle = many[0] if kind == pb.COMMAND_KIND_REWARD else 4000
    refused = await refusal(stream_wire.stream.ask(Row(handle, kind, payload=b"\xff\xff\xff")))
    assert refused.verdict == MALFORMED
    assert (await stream_wire.stream.ask(Row(many[1], index=1, payload=act(5)))).outcome().index == 1


@pytest.mark.parametrize(
    "options",
    [
        value("text"),
        value(5),
        b"\x1a\x04\x08\x01\x10\x05",  # a tensor of 5 truth values without bytes
        b"\x12\x01{",  # json that is none
    ],
)
async def test_options_that_are_none_fail_alone(
    stream_wire: StreamWire, many: list[int], channel: grpc.aio.Channel, options: Any
):
    number = await stream_wire.bind((await acquire(channel, "tally")).token)
    request = pb.ResetRequest(episode_id=b"o" * 16, epoch=1, lease_number=number)
    raw = options if isinstance(options, bytes) else options.SerializeToString()
    request.options.ParseFromString(raw)
    refused = await refusal(
        stream_wire.stream.ask(Row(4000, pb.COMMAND_KIND_RESET, payload=request.SerializeToString()))
    )
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.reason in ("ARGUMENT_INVALID", "MALFORMED")
    assert (await stream_wire.stream.ask(Row(many[1], index=1, payload=act(5)))).outcome().index == 1


async def test_an_empty_frame_is_a_frame(stream_wire: StreamWire, many: list[int]):
    await stream_wire.stream.send_frame(pb.StreamRequest())
    assert (await stream_wire.stream.ask(Row(many[0], index=1, payload=act(5)))).outcome().index == 1


async def test_fields_of_the_future_are_no_harm(stream_wire: StreamWire, many: list[int]):
    frame = frame_of(Row(many[0], index=1, payload=act(5))).SerializeToString()
    await stream_wire.stream.send_bytes(frame + b"\xf2\x3f\x03new")
    assert (await stream_wire.stream.answer(many[0], 1)).outcome().index == 1


async def test_a_frame_has_at_most_4096_rows(stream_wire: StreamWire):
    rows = [Row(5000 + at, index=1) for at in range(4096)]
    await stream_wire.stream.send(*rows)
    for row in (rows[0], rows[-1]):
        assert (await refusal(stream_wire.stream.answer(row.handle, 1))).reason == "EPISODE_UNKNOWN"


async def test_an_answering_frame_is_bounded_too(stream_wire: StreamWire, many: list[int]):
    """At most clamp(open / 2, 32, 512) events: with everything in one frame both sides would work in turns."""
    before = len(stream_wire.stream.frames)
    await stream_wire.stream.send(*(Row(handle, index=1, payload=act(5)) for handle in many))
    await answers(stream_wire.stream, many, 1)
    sizes = [len(frame.handles) for frame in stream_wire.stream.frames[before:]]
    assert sum(sizes) == 100
    assert max(sizes) <= 50


# ---- what is malformed ends its stream, and nothing else


def hello_again(stream: Stream) -> bytes:
    hello = pb.Hello(
        protocol_version=1,
        client_id=stream.client_id,
        connection_id=stream.connection_id,
        role=pb.STREAM_ROLE_MAIN,
    )
    return pb.StreamRequest(hello=hello).SerializeToString()


MALFORMED_FRAMES: dict[str, Any] = {
    "noise": b"\xff\xff\xff\xff",
    "a frame cut off": frame_of(*(Row(h, index=1, payload=act(5)) for h in (1, 2, 3))).SerializeToString()[
        :-3
    ],
    "fewer indices": pb.StreamRequest(handles=[1, 2, 3], indices=[1, 1]),
    "more indices": pb.StreamRequest(handles=[1], indices=[1, 1]),
    "fewer payloads": pb.StreamRequest(handles=[1, 2], payloads=[b""]),
    "fewer kinds": pb.StreamRequest(handles=[1, 2], kinds=[pb.COMMAND_KIND_CLOSE]),
    "more kinds": pb.StreamRequest(handles=[1], kinds=[pb.COMMAND_KIND_CLOSE] * 2),
    "fewer timeouts": pb.StreamRequest(handles=[1, 2], timeouts=[5]),
    "more annotations": pb.StreamRequest(handles=[1], annotations=[b"", b""]),
    "no handles": pb.StreamRequest(payloads=[b""]),
    "too many rows": pb.StreamRequest(handles=range(1, 4098)),
    "hello again": hello_again,
}


@pytest.mark.parametrize("name", MALFORMED_FRAMES)
async def test_a_malformed_frame_ends_its_stream_and_nothing_else(streams: Wires, name: str):
    wire, neighbour, unary = await streams.stream(), await streams.stream(), await streams.unary()
    mine, theirs, unrelated = Episode("tally"), Episode("tally"), Episode("tally")
    await wire.reset(mine, seed=7)
    await neighbour.reset(theirs, seed=7)
    await unary.reset(unrelated, seed=7)
    frame = MALFORMED_FRAMES[name]
    frame = frame(wire.stream) if callable(frame) else frame
    await wire.stream.send_bytes(frame if isinstance(frame, bytes) else frame.SerializeToString())
    refused = await wire.stream.over()
    assert refused.verdict == MALFORMED
    assert refused.message
    assert content((await neighbour.step(theirs, 1, 5)).observation) == 12
    assert content((await unary.step(unrelated, 1, 5)).observation) == 12
    again = mine.taken_over()
    assert (await neighbour.resume(again, journal=mine.journal)).last.index == 0, "its episodes wait"


# ---- the first frame


def greeting(**fields: Any) -> pb.StreamRequest:
    given: dict[str, Any] = {
        "protocol_version": 1,
        "client_id": b"c" * 16,
        "connection_id": b"n" * 16,
        "role": pb.STREAM_ROLE_MAIN,
    }
    return pb.StreamRequest(hello=pb.Hello(**{**given, **fields}))


def with_a_command() -> pb.StreamRequest:
    frame = greeting()
    frame.handles.append(1)
    return frame


@pytest.mark.parametrize(
    ("first", "verdict"),
    [
        (b"\xff\xff", MALFORMED),
        (pb.StreamRequest(), MALFORMED),
        (pb.StreamRequest(heartbeat=pb.Heartbeat(sequence=1)), MALFORMED),
        (pb.StreamRequest(handles=[1]), MALFORMED),
        (with_a_command(), MALFORMED),
        (greeting(protocol_version=2), ARGUMENT),
        (greeting(protocol_version=0), ARGUMENT),
        (greeting(client_id=b"short"), ARGUMENT),
        (greeting(connection_id=b""), ARGUMENT),
        (greeting(role=0), ARGUMENT),
        (greeting(role=9), ARGUMENT),
        (greeting(role=pb.STREAM_ROLE_LARGE), ARGUMENT),
        (greeting(liveness_window={"nanos": 900_000_000}), ARGUMENT),
        (greeting(liveness_window={"seconds": 301}), ARGUMENT),
        (greeting(liveness_window={"seconds": -5}), ARGUMENT),
    ],
)
async def test_a_stream_begins_with_a_hello(channel: grpc.aio.Channel, first: Any, verdict: str):
    stream = Stream(channel.stream_stream(STREAM)(), b"", b"")
    try:
        await stream.send_bytes(first if isinstance(first, bytes) else first.SerializeToString())
        assert (await stream.over()).verdict == verdict
    finally:
        await stream.hang_up()


async def test_the_welcome_says_the_hosts_bounds(stream_wire: StreamWire):
    welcome = stream_wire.stream.welcome
    assert welcome.protocol_version == 1
    assert welcome.host_id
    assert 0 < welcome.max_value_bytes < welcome.max_frame_bytes
    assert welcome.reattach_window.seconds >= 0
    assert welcome.liveness_window.seconds == 300
    assert not events_of(stream_wire.stream.frames[0])


async def test_a_stream_that_ends_before_its_hello_is_no_harm(channel: grpc.aio.Channel):
    call: Any = channel.stream_stream(STREAM)()
    await call.done_writing()
    async with asyncio.timeout(30):
        assert await call.code() in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)


async def test_a_client_that_says_it_is_done_ends_the_stream(
    channel: grpc.aio.Channel, unary_wire: UnaryWire
):
    async with Stream.opened(channel) as stream:
        await stream.done()
        assert (await stream.over()).code is grpc.StatusCode.OK
    await unary_wire.reset(Episode("tally"))
