"""The Stream call: reading frames, stepping what can be stepped at once, writing what is ready.

The reader writes itself whenever nobody else is writing, so a lone step costs no switch of tasks. A writer task steps in
when events appear while the reader waits. Nothing is delayed by a timer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.connection import Columns, Connection
from envmesh_host.outbox import Outbox, pack
from envmesh_host.watchdog import StepOverrun

__all__ = ["FrameWriter", "StreamSession"]

MAX_UNSENT_LARGE_BYTES = 32 << 20
"""Beyond this many unsent bytes of large values a host stops reading commands."""


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
            remaining = len(self._outbox.events)
            while remaining > 0 or self.heartbeat_due:
                remaining -= await self._write_frame()
        finally:
            self.busy = False
            if self._outbox.events:
                self._ready.set()
            self._drained.set()

    async def room(self) -> None:
        """Wait until the unsent large values are below their bound."""
        while self._outbox.large_bytes > MAX_UNSENT_LARGE_BYTES:
            self._drained.clear()
            self.wake()
            await self._drained.wait()

    async def _write_frame(self) -> int:
        connection = self._connection
        events = self._outbox.take(len(connection.bindings))
        if self._outbox.large_bytes:
            self._outbox.large_bytes = sum(
                size for event in self._outbox.events if (size := len(event[3][0])) >= 256 * 1024
            )
        frame = pack(events)
        if self.heartbeat_due:
            self.heartbeat_due = False
            self._sequence += 1
            frame.heartbeat.sequence = self._sequence
            frame.heartbeat.challenge = connection.challenge if connection.fenced else 0
        connection.frame_sizes.append(len(events))
        await self._context.write(frame.SerializeToString())
        return len(events)


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
        done = columns.count == 0
        while not done:
            mine = not writer.busy
            writer.busy = True
            try:
                done = connection.run(columns)
            except StepOverrun:
                overrun(connection, columns)
            finally:
                writer.busy = not mine
            if mine:
                await writer.write()
            else:
                await asyncio.sleep(0)
            if connection.outbox.large_bytes:
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


def overrun(connection: Connection, columns: Columns) -> None:
    """The watchdog raised in the reader: the row that was running has overrun its limit."""
    position = int(connection.watch[1])
    connection.watch[0] = 0.0
    handle, index = columns.handles[position], columns.indices[position]
    columns.position = position + 1
    copy = connection.bindings.get(handle)
    if copy is None:
        return
    refusal = Refusal(
        f"step {index} of {copy.environment.key} ran longer than its limit of {copy.environment.step_limit:g} s",
        reason="LIMIT_EXCEEDED",
    )
    connection.engine.refused_inline(copy, index, columns.payloads[position], refusal)
    connection.reply(handle, index, pb.EVENT_KIND_FAILURE, refusal)
