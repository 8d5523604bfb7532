"""The Stream call: reading frames, stepping what can be stepped at once, writing what is ready.

With few episodes the reader writes itself, so a lone step costs no switch of tasks. With many a writer task does, and
what the reader steps while a frame is in flight gathers for the next one. Nothing is delayed by a timer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.columns import Columns
from envmesh_host.connection import Connection
from envmesh_host.outbox import Outbox

_DONE = object()

__all__ = ["FrameWriter", "StreamSession"]

MAX_UNSENT_LARGE_BYTES = 32 << 20
MAX_UNSENT_EVENTS = 4096
"""Beyond this many unsent bytes of large values, or unsent events, a host stops reading commands."""

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
        self._sequence = 0

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
        try:
            remaining = len(self._outbox)
            while remaining > 0 or self.heartbeat_due or self.taken_due:
                remaining -= await self._write_frame()
        finally:
            self.busy = False
            if len(self._outbox):
                self._ready.set()
            self._drained.set()

    async def room(self) -> None:
        """Wait until what is unsent is below its bounds."""
        while self._outbox.large_bytes > MAX_UNSENT_LARGE_BYTES or len(self._outbox) > MAX_UNSENT_EVENTS:
            self._drained.clear()
            self.wake()
            await self._drained.wait()

    async def _write_frame(self) -> int:
        connection = self._connection
        frame = self._outbox.take(len(connection.bindings))
        count = len(frame.handles)
        if self.heartbeat_due:
            self.heartbeat_due = False
            self._sequence += 1
            frame.heartbeat.sequence = self._sequence
            frame.heartbeat.challenge = connection.challenge if connection.fenced else 0
        frame.taken = self.taken
        self.taken_due = False
        connection.frame_sizes.append(count)
        await self._context.write(frame.SerializeToString())
        return count


class StreamSession:
    """One main stream, from its hello to its end."""

    def __init__(self, context: Any, connection: Connection, liveness_window: float, last_tick: Any):
        self.connection = connection
        self.writer = FrameWriter(context, connection.outbox, connection)
        self._context = context
        self._window = liveness_window
        self._last_tick = last_tick
        self._held: list[Columns] = []
        connection.wake = self.writer.wake

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
            try:
                frame = pb.StreamRequest.FromString(data)
            except DecodeError:
                raise Refusal("the frame cannot be decoded", reason="MALFORMED") from None
            if frame.HasField("hello"):
                raise Refusal("hello belongs into the first request only", reason="MALFORMED")
            self._note_life(frame)
            columns = Columns(frame, arrived)
            connection.frames_in += 1
            if connection.fenced:
                self._hold(columns)
                continue
            if self._held:
                held, self._held = self._held, []
                for earlier in held:
                    await self._carry_out(earlier)
            await self._carry_out(columns)

    async def _carry_out(self, columns: Columns) -> None:
        connection, writer = self.connection, self.writer
        work = connection.work(columns)
        done = False
        writer.taken += 1
        writer.taken_due = True
        while not done:
            idle, writer.busy = not writer.busy, True
            done = next(work, _DONE) is _DONE
            writer.busy = not idle
            if idle and len(connection.bindings) <= FEW_EPISODES:
                await writer.write()
            elif idle:
                writer.wake()
            if not done:
                await asyncio.sleep(0)
            if connection.outbox.large_bytes or len(connection.outbox) > MAX_UNSENT_EVENTS:
                await writer.room()

    def _hold(self, columns: Columns) -> None:
        self._held.append(columns)
        self.writer.heartbeat_due = True
        self.writer.wake()

    def _note_life(self, frame: pb.StreamRequest) -> None:
        connection = self.connection
        now = time.monotonic()
        silence = now - connection.heard_at
        pause = now - self._last_tick[0]
        connection.heard_at = now
        if max(silence, pause) > self._window:
            connection.challenge += 1
        if frame.HasField("heartbeat"):
            connection.answered = max(connection.answered, min(frame.heartbeat.answer, connection.challenge))
