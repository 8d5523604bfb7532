"""The Stream call: reading frames, stepping what can be stepped at once, writing what is ready.

With few episodes the reader writes itself, so a lone step costs no switch of tasks. With many a writer task does, and
what the reader steps while a frame is in flight gathers for the next one. Nothing is delayed by a timer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from envmesh.errors import Refusal
from envmesh.lone_frames import read_step
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.columns import Columns
from envmesh_host.connection import Connection
from envmesh_host.outbox import Outbox

_DONE = object()

__all__ = ["FrameWriter", "StreamSession"]

MAX_UNSENT_BYTES = 32 << 20
MAX_UNSENT_EVENTS = 4096
"""Beyond this many unsent bytes of values, or unsent events, a host stops reading commands."""

MAX_HELD_FRAMES, MAX_HELD_BYTES = 1024, 64 << 20
"""What a client may send before it has answered a challenge."""

FEW_EPISODES = 4
"""Up to so many the reader writes itself: no switch of tasks. Beyond, a frame in flight lets the next ones gather."""


class FrameWriter:
    """Writes one outbox to one call, a frame at a time, one write at a time."""

    def __init__(self, context: Any, outbox: Outbox, connection: Connection):
        self._context = context
        self._outbox = outbox
        self._connection = connection
        self._ready = asyncio.Event()
        self._drained = asyncio.Event()
        self.busy = False
        self.heartbeat_due = False
        self.taken = 0
        self.taken_due = False
        self.beaten_at = 0.0
        self._sequence = 0
        self._over = False

    def wake(self) -> None:
        """There is something to write."""
        if not self.busy:
            self._ready.set()

    async def run(self) -> None:
        """Write whenever woken, for ever."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            await self.write()

    async def write(self) -> None:
        """Write what is there now; what comes meanwhile is left to the next call."""
        if self.busy:
            return
        self.busy = True
        traffic = self._connection.engine.traffic
        try:
            remaining = len(self._outbox)
            while remaining > 0 or self.heartbeat_due or self.taken_due:
                events, data = self._frame()
                remaining -= events
                traffic.frame_sizes.append(events)
                traffic.bytes_out += len(data)
                await self._context.write(data)
        finally:
            self.busy = False
            if len(self._outbox):
                self._ready.set()
            self._drained.set()

    def over(self) -> None:
        """Nothing will be written any more, and nobody need wait for it."""
        self._over = True
        self._drained.set()

    async def room(self) -> None:
        """Wait until what is unsent is below its bounds."""
        outbox = self._outbox
        while outbox.total_bytes > MAX_UNSENT_BYTES or len(outbox) > MAX_UNSENT_EVENTS:
            if self._over:
                return
            self._drained.clear()
            self.wake()
            await self._drained.wait()

    def _frame(self) -> tuple[int, bytes]:
        """The next frame, and how many events are in it."""
        connection, outbox = self._connection, self._outbox
        self.taken_due = False
        if (len(outbox) == 1 or outbox.begins_large) and not self.heartbeat_due:
            return 1, outbox.take_alone(self.taken)
        frame = outbox.take(len(connection.bindings))
        if self.heartbeat_due:
            self.heartbeat_due = False
            self._sequence += 1
            frame.heartbeat.sequence = self._sequence
            frame.heartbeat.challenge = connection.challenge if connection.fenced else 0
        frame.taken = self.taken
        return len(frame.handles), frame.SerializeToString()


class StreamSession:
    """The requests of one stream, from its hello to its end. ``writer`` writes the connection's main stream, ``own``
    this one (the same, unless this is the stream for large values)."""

    def __init__(
        self, context: Any, connection: Connection, last_tick: Any, *, writer: FrameWriter, own: FrameWriter
    ):
        self.connection = connection
        self._writer = writer
        self._own = own
        self._context = context
        self._last_tick = last_tick
        self._held: list[Columns] = []
        self._held_bytes = 0
        self._interrupted: Iterator[None] | None = None

    async def read(self) -> None:
        """Serve the client until it hangs up.

        Raises:
            Refusal: MALFORMED; the stream ends with it.
        """
        read, connection = self._context.read, self.connection
        while True:
            data = await read()
            if data is grpc.aio.EOF:
                return
            arrived = time.perf_counter()
            self._note_life()
            traffic = connection.engine.traffic
            traffic.frames_in += 1
            traffic.bytes_in += len(data)
            if (step := read_step(data)) is not None:
                behind = connection.fenced or self._interrupted is not None or self._held
                if not behind and connection.step_alone(*step, arrived):
                    self._note_taken()
                    await self._answer(not self._writer.busy)
                    continue
            columns = Columns(self._parsed(data), arrived)
            if connection.fenced:
                self._hold(columns, len(data))
                continue
            held, self._held, self._held_bytes = self._held, [], 0
            if self._interrupted is not None:
                work, self._interrupted = self._interrupted, None
                await self._go_on(work)
            for waiting in (*held, columns):
                if self._interrupted is None:
                    await self._carry_out(waiting)
                else:
                    self._held.append(waiting)

    def _note_taken(self) -> None:
        own = self._own
        own.taken += 1
        own.taken_due = True
        if own is not self._writer:
            own.wake()

    async def _answer(self, idle: bool) -> None:
        """Write what there is, or have it written; wait where there is too much of it. ``idle``: nobody else writes."""
        connection, writer = self.connection, self._writer
        if idle and len(connection.bindings) <= FEW_EPISODES:
            await writer.write()
        elif idle:
            writer.wake()
        if connection.outbox.total_bytes > MAX_UNSENT_BYTES or len(connection.outbox) > MAX_UNSENT_EVENTS:
            await writer.room()
        if connection.large.total_bytes > MAX_UNSENT_BYTES:
            await connection.large_room()

    async def _carry_out(self, columns: Columns) -> None:
        self._note_taken()
        await self._go_on(self.connection.work(columns))

    async def _go_on(self, work: Iterator[None]) -> None:
        """Carry out a request, or the rest of one. After a pause the rest waits, as a request that comes then does."""
        writer, done = self._writer, False
        while not done:
            idle, writer.busy = not writer.busy, True
            done = next(work, _DONE) is _DONE
            writer.busy = not idle
            await self._answer(idle)
            if not done:
                await asyncio.sleep(0)
                if self._paused():
                    self._interrupted = work
                    return

    def _hold(self, columns: Columns, size: int) -> None:
        """Keep a request until the challenge is answered.

        Raises:
            Refusal: ARGUMENT_INVALID when the client goes on and on without answering it.
        """
        if columns.count:
            self._held.append(columns)
            self._held_bytes += size
        if len(self._held) > MAX_HELD_FRAMES or self._held_bytes > MAX_HELD_BYTES:
            raise Refusal(
                f"{len(self._held)} frames wait for the answer to challenge {self.connection.challenge}",
                reason="ARGUMENT_INVALID",
            )
        self._writer.heartbeat_due = True
        self._writer.wake()

    def _paused(self) -> bool:
        """Whether there was a pause since the host last looked at its clock, or a challenge that is not answered."""
        connection = self.connection
        if time.monotonic() - self._last_tick[0] > connection.liveness_window:
            connection.challenge += 1
        return connection.fenced

    def _note_life(self) -> None:
        connection = self.connection
        now, window = time.monotonic(), connection.liveness_window
        if now - connection.heard_at > window or now - self._last_tick[0] > window:
            connection.challenge += 1
        connection.heard_at = now

    def _parsed(self, data: bytes) -> pb.StreamRequest:
        try:
            frame = pb.StreamRequest.FromString(data)
        except DecodeError:
            raise Refusal("the frame cannot be decoded", reason="MALFORMED") from None
        if frame.HasField("hello"):
            raise Refusal("hello belongs into the first request only", reason="MALFORMED")
        if frame.HasField("heartbeat"):
            connection = self.connection
            connection.answered = max(connection.answered, min(frame.heartbeat.answer, connection.challenge))
        return frame
