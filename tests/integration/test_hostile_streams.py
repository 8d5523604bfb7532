"""Hostile bytes on a stream: only that stream ends, with INVALID_ARGUMENT MALFORMED, or only that command fails. The
host lives, and neighbours on other connections play on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from google.rpc import status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.hosts import serving, write_key
from tests.compliance.messages import Episode, Refused, content, value
from tests.compliance.stream import STREAM, Event, Row, Stream, frame_of
from tests.compliance.wire import StreamWire, acquire, channel_to

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

PING = 4_000_000_001
KINDS = range(13)


class Scene:
    """A host, a neighbour on a connection of its own, and one event loop for all examples."""

    def __init__(self, address: str, runner: asyncio.Runner):
        self.address = address
        self.run = runner.run
        self.neighbour_steps = 0

    async def open(self, stack: AsyncExitStack) -> None:
        """The neighbour begins to play."""
        self.channel = await stack.enter_async_context(channel_to(self.address))
        own = await stack.enter_async_context(channel_to(self.address))
        stream = await stack.enter_async_context(Stream.opened(own))
        self.neighbour = StreamWire(own, stream)
        self.episode = Episode("tally")
        await self.neighbour.reset(self.episode, seed=0)

    async def neighbour_plays_on(self) -> None:
        """It steps, and nothing is lost."""
        self.neighbour_steps += 1
        outcome = await self.neighbour.step(self.episode, self.neighbour_steps, 1)
        assert content(outcome.observation) == self.neighbour_steps


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One host for all examples: what one of them broke, the next would find."""
    path = tmp_path_factory.mktemp("keys") / "lease.pem"
    write_key(path)
    with serving(path) as running, asyncio.Runner() as runner:
        scene = Scene(running.address, runner)
        stack = AsyncExitStack()
        runner.run(scene.open(stack))
        yield scene
        runner.run(scene.neighbour_plays_on())
        runner.run(stack.aclose())
        assert running.process.poll() is None


bounded = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

# ---- whole frames


columns = st.fixed_dictionaries(
    {},
    optional={
        "handles": st.lists(st.integers(0, 2**32 - 1), max_size=6),
        "indices": st.lists(st.integers(0, 2**32 - 1), max_size=6),
        "payloads": st.lists(st.binary(max_size=40), max_size=6),
        "kinds": st.lists(st.sampled_from(KINDS), max_size=6),
        "annotations": st.lists(st.binary(max_size=8), max_size=6),
        "timeouts": st.lists(st.integers(0, 2**32 - 1), max_size=6),
        "heartbeat": st.builds(
            pb.Heartbeat, sequence=st.integers(0, 2**64 - 1), answer=st.integers(0, 2**64 - 1)
        ),
        "hello": st.builds(pb.Hello, protocol_version=st.integers(0, 3), client_id=st.binary(max_size=20)),
    },
)


def serialized(fields: Any) -> bytes:
    """A frame whose columns need not agree."""
    return pb.StreamRequest(**fields).SerializeToString()


ragged = columns.map(serialized)
rows = st.lists(
    st.builds(
        Row,
        st.integers(0, 2**32 - 1),
        st.sampled_from(KINDS),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=60),
        st.integers(0, 2**32 - 1),
    ),
    max_size=8,
)
whole = rows.map(lambda given: frame_of(*given).SerializeToString())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A frame that is cut off, or has bytes changed, left out or put in."""
    data = bytearray(draw(whole | ragged))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["cut", "change", "leave out", "put in"])):
            case "cut":
                del data[at:]
            case "change" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "leave out":
                del data[at : at + draw(st.integers(1, 4))]
            case "put in":
                data[at:at] = draw(st.binary(min_size=1, max_size=6))
    return bytes(data)


hostile = st.binary(max_size=200) | ragged | whole | damaged()


async def survives(scene: Scene, frames: list[bytes]) -> None:
    async with Stream.opened(scene.channel) as stream:
        for count, frame in enumerate(frames, 1):
            await stream.send_bytes(frame)
            await taken_or_over(stream, count)
            if stream.ended:
                assert (await stream.over()).verdict == "INVALID_ARGUMENT MALFORMED"
                break
        else:
            await stream.send(Row(PING, index=1))
            event = await stream.next_event(lambda event: event.handle == PING and event.index == 1)
            assert event.refusal().verdict == "NOT_FOUND EPISODE_UNKNOWN"
        for event in stream.events:
            assert event.kind != pb.EVENT_KIND_FAILURE or event.refusal().reason not in ("INTERNAL", "")
    await scene.neighbour_plays_on()


async def taken_or_over(stream: Stream, count: int) -> None:
    """Wait until the host has taken up so many requests, or has hung up."""
    await stream.until(lambda: stream.frames[-1].taken >= count or stream.ended)


@bounded
@given(frame=hostile)
def test_one_hostile_frame(scene: Scene, frame: bytes):
    scene.run(survives(scene, [frame]))


@bounded
@given(frames=st.lists(hostile, min_size=2, max_size=5))
def test_several_hostile_frames(scene: Scene, frames: list[bytes]):
    scene.run(survives(scene, frames))


async def refuses_greeting(scene: Scene, data: bytes) -> None:
    stream = Stream(scene.channel.stream_stream(STREAM)(), b"", b"")
    try:
        await stream.send_bytes(data)
        await stream.until(lambda: bool(stream.frames) or stream.ended)
        if stream.ended:
            verdict = (await stream.over()).verdict
            assert verdict in ("INVALID_ARGUMENT MALFORMED", "INVALID_ARGUMENT ARGUMENT_INVALID")
    finally:
        await stream.hang_up()
    await scene.neighbour_plays_on()


greetings = st.builds(
    pb.Hello,
    protocol_version=st.integers(0, 3),
    client_id=st.binary(min_size=14, max_size=18),
    connection_id=st.binary(min_size=14, max_size=18),
    role=st.integers(0, 3),
).map(lambda hello: pb.StreamRequest(hello=hello).SerializeToString())


@bounded
@given(data=hostile | greetings)
def test_a_hostile_first_frame(scene: Scene, data: bytes):
    scene.run(refuses_greeting(scene, data))


# ---- payloads: each command is answered once, and never with a defect of ours


valid_values = st.recursive(
    st.none() | st.text(max_size=10) | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
).map(lambda plain: value(plain).SerializeToString())


@st.composite
def spoiled(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of a message, one of them changed or lost."""
    data = bytearray(draw(good))
    at = draw(st.integers(0, len(data)))
    data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(data)


async def answer_to(scene: Scene, kind: int, payload: bytes, environment: str, index: int) -> Event:
    async with Stream.opened(scene.channel) as stream:
        wire = StreamWire(scene.channel, stream)
        episode = Episode(environment)
        await wire.reset(episode)
        handle = wire.handle(episode)
        await stream.send(Row(handle, kind, index, payload), Row(PING, index=1))
        event = await stream.next_event(
            lambda event: event.handle == handle and event.kind != pb.EVENT_KIND_NOTICE
        )
        await stream.next_event(lambda event: event.handle == PING)
        if event.kind == pb.EVENT_KIND_FAILURE:
            assert Refused(status_pb2.Status.FromString(event.payload)).reason not in ("INTERNAL", "")
        await wire.leave()
    await scene.neighbour_plays_on()
    return event


@bounded
@given(payload=st.binary(max_size=60) | valid_values | spoiled(valid_values))
def test_actions(scene: Scene, payload: bytes):
    """What the mirror accepts comes back as a value; the rest is refused as an action."""
    event = scene.run(answer_to(scene, pb.COMMAND_KIND_STEP, payload, "mirror", 1))
    if event.kind == pb.EVENT_KIND_FAILURE:
        assert event.refusal().verdict == "INVALID_ARGUMENT ACTION_INVALID"
    else:
        assert event.outcome().index == 1


resets = st.builds(
    pb.ResetRequest,
    episode_id=st.binary(min_size=15, max_size=17),
    epoch=st.integers(0, 2**64 - 1),
    lease_number=st.integers(0, 3),
    seed=st.none() | st.integers(0, 2**64 - 1),
    task=st.sampled_from(["", "hundred", "million"]),
    split=st.sampled_from(["", "test", "none"]),
).map(lambda message: message.SerializeToString())
resumes = st.builds(
    pb.ResumeRequest,
    episode_id=st.binary(min_size=16, max_size=16),
    epoch=st.integers(0, 2**64 - 1),
    lease_number=st.integers(0, 3),
    journal=st.builds(
        pb.Journal,
        format_version=st.integers(0, 2),
        entries=st.lists(
            st.builds(pb.JournalEntry, reset=st.builds(pb.ResetEntry, environment=st.just("tally@1")))
            | st.builds(pb.JournalEntry, act=st.binary(max_size=10), digest=st.integers(0, 2**64 - 1))
            | st.builds(pb.JournalEntry, reseed=st.integers(0, 2**64 - 1))
            | st.builds(
                pb.JournalEntry,
                checkpoint=st.builds(
                    pb.SealedCheckpoint,
                    index=st.integers(0, 2**32 - 1),
                    content=st.binary(max_size=20),
                    reference=st.text(max_size=5),
                    seal=st.binary(max_size=32),
                ),
            ),
            max_size=4,
        ),
    ),
    attach_token=st.binary(max_size=40),
).map(lambda message: message.SerializeToString())
COMMANDS: dict[int, Any] = {
    pb.COMMAND_KIND_RESET: resets | spoiled(resets) | st.binary(max_size=40),
    pb.COMMAND_KIND_RESUME: resumes | spoiled(resumes) | st.binary(max_size=40),
    pb.COMMAND_KIND_REWARD: st.binary(max_size=10),
    pb.COMMAND_KIND_BIND: st.binary(max_size=120),
    pb.COMMAND_KIND_CHECKPOINT: st.binary(max_size=10),
    pb.COMMAND_KIND_DETACH: st.binary(max_size=10),
}


@pytest.mark.parametrize("kind", COMMANDS, ids=pb.CommandKind.Name)
@bounded
@given(data=st.data())
def test_every_other_command(scene: Scene, kind: int, data: st.DataObject):
    payload = data.draw(COMMANDS[kind])
    scene.run(answer_to(scene, kind, payload, "tally", data.draw(st.integers(0, 2**32 - 1))))


async def test_leases_are_left_as_they_were(scene: Scene):
    """After all of it there is room for whoever comes."""
    async with channel_to(scene.address) as channel:
        lease = await acquire(channel, "scarce", 2)
        assert lease.count == 2
