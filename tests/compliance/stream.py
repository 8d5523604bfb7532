"""A stream, spoken by hand: frames out, events in, and nothing done that a test did not ask for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.rpc import status_pb2

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import Refused, refused_by

STREAM = "/envmesh.v1.EnvironmentService/Stream"
PATIENCE = 30.0
UNHURRIED = 300.0
"""A liveness window in which no busy machine looks dead."""


@dataclass(frozen=True, slots=True)
class Row:
    """One command."""

    handle: int
    kind: int = pb.COMMAND_KIND_STEP
    index: int = 0
    payload: bytes = b""
    timeout: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One row of a host's frame."""

    handle: int
    index: int
    kind: int
    payload: bytes
    reward: float
    flags: int
    digest: int
    info: bytes

    def outcome(self) -> pb.Outcome:
        """The message form of an OUTCOME."""
        assert self.kind == pb.EVENT_KIND_OUTCOME
        outcome = pb.Outcome(
            index=self.index,
            reward=self.reward,
            terminated=bool(self.flags & pb.OUTCOME_FLAG_TERMINATED),
            truncated=bool(self.flags & pb.OUTCOME_FLAG_TRUNCATED),
            digest=self.digest,
        )
        if self.flags & pb.OUTCOME_FLAG_AGENTS:
            outcome.agents.ParseFromString(self.payload)
        else:
            outcome.observation.ParseFromString(self.payload)
        if self.info:
            outcome.info.ParseFromString(self.info)
        return outcome

    def refusal(self) -> Refused:
        """The refusal of a FAILURE."""
        assert self.kind == pb.EVENT_KIND_FAILURE
        return Refused(status_pb2.Status.FromString(self.payload))


def frame_of(*rows: Row) -> pb.StreamRequest:
    """Commands as columns; a column whose values are all the default is absent."""
    timeouts = [row.timeout for row in rows]
    kinds: Any = [row.kind for row in rows]
    indices = [row.index for row in rows]
    payloads = [row.payload for row in rows]
    return pb.StreamRequest(
        handles=[row.handle for row in rows],
        indices=indices if any(indices) else None,
        payloads=payloads if any(payloads) else None,
        kinds=kinds if any(kind != pb.COMMAND_KIND_STEP for kind in kinds) else None,
        timeouts=timeouts if any(timeouts) else None,
    )


def events_of(frame: pb.StreamResponse) -> list[Event]:
    """A frame's rows; what is absent is the default, and what is there has one value a row."""
    count = len(frame.handles)

    def column(values: Any, default: Any) -> list[Any]:
        assert len(values) in (0, count), "a column has one value a row, or is absent"
        return list(values) or [default] * count

    return [
        Event(*row)
        for row in zip(
            frame.handles,
            column(frame.indices, 0),
            column(frame.kinds, pb.EVENT_KIND_OUTCOME),
            column(frame.payloads, b""),
            column(frame.rewards, 0.0),
            column(frame.flags, 0),
            column(frame.digests, 0),
            column(frame.infos, b""),
            strict=True,
        )
    ]


class Stream:
    """One stream. ``frames`` is everything that was heard; ``events`` what no test has claimed yet."""

    def __init__(self, call: Any, client_id: bytes, connection_id: bytes):
        self.client_id = client_id
        self.connection_id = connection_id
        self.welcome: pb.Welcome
        self.frames: list[pb.StreamResponse] = []
        self.events: list[Event] = []
        self.challenge = 0
        self.answers_challenges = True
        self.sequence = 0
        self._call = call
        self._heard = asyncio.Condition()
        self._over = False
        self._sending = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None

    # ---- life

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        channel: grpc.aio.Channel,
        *,
        client_id: bytes = b"",
        connection_id: bytes = b"",
        role: int = pb.STREAM_ROLE_MAIN,
        window: float = UNHURRIED,
        **more: Any,
    ) -> AsyncIterator[Stream]:
        """A stream that has been welcomed; it is hung up in the end. ``more`` are fields of its hello."""
        stream = cls(
            channel.stream_stream(STREAM)(),
            client_id or secrets.token_bytes(16),
            connection_id or secrets.token_bytes(16),
        )
        hello = pb.Hello(
            protocol_version=1,
            client_id=stream.client_id,
            connection_id=stream.connection_id,
            role=role,  # type: ignore[arg-type]
            liveness_window=duration_pb2.Duration(seconds=int(window), nanos=int(window % 1 * 1e9)),
            **more,
        )
        try:
            await stream.send_frame(pb.StreamRequest(hello=hello))
            await stream.until(lambda: bool(stream.frames))
            assert stream.frames[0].HasField("welcome")
            stream.welcome = stream.frames[0].welcome
            yield stream
        finally:
            await stream.hang_up()

    async def hang_up(self) -> None:
        """End the call without a word."""
        self._call.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait((self._reader,))

    async def done(self) -> None:
        """Say that no more frames come."""
        await self._call.done_writing()

    @property
    def ended(self) -> bool:
        """Whether the host has ended it."""
        return self._over

    async def over(self) -> Refused:
        """How the host ended the stream."""
        await self.until(lambda: self._over)
        code = await self._call.code()
        for key, data in await self._call.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                return Refused(status_pb2.Status.FromString(data))
        return Refused(status_pb2.Status(code=code.value[0], message=await self._call.details() or ""))

    # ---- sending

    async def send(self, *rows: Row) -> None:
        """One frame of commands."""
        await self.send_frame(frame_of(*rows))

    async def send_frame(self, frame: pb.StreamRequest) -> None:
        """Any frame."""
        await self.send_bytes(frame.SerializeToString())

    async def send_bytes(self, data: bytes) -> None:
        """Anything. What the host has hung up on is lost; ``over`` says why."""
        try:
            async with asyncio.timeout(PATIENCE), self._sending:
                await self._call.write(data)
        except grpc.aio.AioRpcError as error:
            raise refused_by(error) from None

    async def beat(self, answer: int = 0) -> None:
        """A sign of life."""
        self.sequence += 1
        heartbeat = pb.Heartbeat(sequence=self.sequence, answer=answer)
        await self.send_frame(pb.StreamRequest(heartbeat=heartbeat))

    # ---- hearing

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what was heard fulfils a condition.

        Raises:
            Refused: the host ended the stream before.
        """
        if self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._read(), name="reader")
        async with asyncio.timeout(PATIENCE), self._heard:
            await self._heard.wait_for(lambda: condition() or self._over)
        if not condition():
            raise await self.over()

    async def next_event(self, wanted: Callable[[Event], bool]) -> Event:
        """The first unclaimed event of this sort."""
        found: list[Event] = []

        def look() -> bool:
            found[:] = [event for event in self.events if wanted(event)][:1]
            return bool(found)

        await self.until(look)
        self.events.remove(found[0])
        return found[0]

    async def answer(self, handle: int, index: int = 0, *, kinds: tuple[int, ...] = ()) -> Event:
        """The answer to a command, of certain kinds if they are named; notices are no answers, and checkpoints only
        where they are named.

        Raises:
            Refused: it was a FAILURE.
        """

        def wanted(event: Event) -> bool:
            if event.handle != handle or event.kind == pb.EVENT_KIND_NOTICE:
                return False
            if kinds:
                return event.kind in kinds
            if event.kind == pb.EVENT_KIND_CHECKPOINT:
                return False
            return event.index == index or event.kind == pb.EVENT_KIND_RETURNED

        event = await self.next_event(wanted)
        if event.kind == pb.EVENT_KIND_FAILURE:
            raise event.refusal()
        return event

    async def ask(self, row: Row) -> Event:
        """One command, and its answer."""
        await self.send(row)
        saves = row.kind == pb.COMMAND_KIND_CHECKPOINT
        kinds = (pb.EVENT_KIND_CHECKPOINT, pb.EVENT_KIND_FAILURE) if saves else ()
        return await self.answer(row.handle, row.index, kinds=kinds)

    async def notice(self, kind: int) -> pb.Notice:
        """The next notice of a kind."""

        def wanted(event: Event) -> bool:
            return event.kind == pb.EVENT_KIND_NOTICE and pb.Notice.FromString(event.payload).kind == kind

        return pb.Notice.FromString((await self.next_event(wanted)).payload)

    async def _read(self) -> None:
        try:
            while True:
                data = await self._call.read()
                if data is grpc.aio.EOF:
                    break
                frame = pb.StreamResponse.FromString(data)
                async with self._heard:
                    self.frames.append(frame)
                    self.events += events_of(frame)
                    self._heard.notify_all()
                if frame.heartbeat.challenge > self.challenge:
                    self.challenge = frame.heartbeat.challenge
                    if self.answers_challenges:
                        await self.beat(self.challenge)
        except (grpc.aio.AioRpcError, Refused):
            pass
        finally:
            async with self._heard:
                self._over = True
                self._heard.notify_all()
