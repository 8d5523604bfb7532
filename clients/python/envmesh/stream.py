"""A connection to one host: frames out, frames in, and whom each event is for.

The reader hands every event straight to the ``Session`` it is for, without a future, task or queue in between; what a
session does with it (resume a loop of ours, wake a user's coroutine, fill an array) is its own affair. The writer takes
whatever is ready when it is free to write and the host is not too far behind (``frame_pace``). The client always reads,
so that the two sides can never wait for each other's buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import secrets
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from envmesh import errors
from envmesh.client_settings import ClientSettings
from envmesh.delivery import Delivery, Session
from envmesh.errors import EnvmeshError, EpisodeAborted, InvalidRequest, MeshUnavailable
from envmesh.frame_bounds import FRAME_HEAD_BYTES, LARGE_VALUE_BYTES, MOST_BYTES
from envmesh.frame_pace import FramePace
from envmesh.going_on import go_on
from envmesh.large_stream import OF_SLOTS, LargeStream
from envmesh.lone_frames import read_outcome
from envmesh.outgoing import Outgoing
from envmesh.v1 import environment_pb2 as pb

__all__ = ["HostConnection", "Session"]

log = logging.getLogger("envmesh.client")

PARTING_SECONDS = 1.0
"""For so long a host may take to hear the last of a stream that its client ends."""

STREAM = "/envmesh.v1.EnvironmentService/Stream"
STEP, RESET, CLOSE = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_CLOSE
OUTCOME, FAILURE, NOTICE = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_FAILURE, pb.EVENT_KIND_NOTICE
FEW_SESSIONS = 4


class HostConnection:
    """The streams to one host. Belongs to one event loop. ``silent``: it was given up, for nothing came;
    ``parted``: the host closed a stream in good order."""

    def __init__(self, address: str, host_id: str, client_id: bytes, *, channel: grpc.aio.Channel,
                 metadata: tuple[tuple[str, str], ...] = (), credentials: tuple[tuple[str, str], ...] = (),
                 settings: ClientSettings):  # fmt: skip
        self.address = address
        self.host_id = host_id
        self.metadata = metadata
        self._credentials = credentials
        self._settings = settings
        self.client_id = client_id
        self.liveness_window = settings.liveness_window
        self._delivery = Delivery(lambda notice: self.when_noticed(self, notice), self._defect)
        self.sessions = self._delivery.sessions
        self.blocks = self._delivery.blocks
        self.rows = Outgoing()
        self.after_frame: set[Callable[[], None]] = set()
        self.when_lost: Callable[[HostConnection, EnvmeshError], None] = lambda connection, error: None
        self.silent = False
        self.parted = False
        self.reattach_window = 60.0
        self.when_noticed: Callable[[HostConnection, pb.Notice], None] = lambda connection, notice: None
        self.lost: EnvmeshError | None = None
        self.draining = False
        self.heard_at = 0.0
        self.max_value_bytes = settings.max_message_bytes - FRAME_HEAD_BYTES
        self._channel = channel
        self._connection_id = secrets.token_bytes(16)
        self._handles = itertools.count(1)
        self._call: Any = None
        self._large_call: Any = None
        self._writing = False
        self._reading = False
        self._closing = False
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sequence = 0
        self._challenge = 0
        self._heartbeat_due = False
        self._pace = FramePace()
        self._next_frame: asyncio.TimerHandle | None = None
        self.large = LargeStream(self)

    # ---- life

    async def open(self, timeout: float) -> None:
        """Open the main stream, and the one for large values.

        Raises:
            MeshUnavailable: nobody answers there within ``timeout`` seconds.
            EnvmeshError: the host refuses the connection.
        """
        try:
            async with asyncio.timeout(timeout):
                self._call, welcome = await self._open_stream(pb.STREAM_ROLE_MAIN)
                self._large_call, _ = await self._open_stream(pb.STREAM_ROLE_LARGE)
        except TimeoutError:
            self.cancel()
            raise MeshUnavailable(f"host {self.address} did not answer within {timeout:g} s") from None
        except BaseException:
            self.cancel()
            raise
        self.host_id = welcome.host_id
        self.max_value_bytes = min(self.max_value_bytes, welcome.max_value_bytes or self.max_value_bytes)
        self.rows.most_bytes = min(MOST_BYTES, self.max_value_bytes)
        self.reattach_window = welcome.reattach_window.ToMilliseconds() / 1e3
        self.liveness_window = welcome.liveness_window.ToMilliseconds() / 1e3 or self.liveness_window
        loop = asyncio.get_running_loop()
        self.heard_at = loop.time()
        for name, work in (
            ("reader", self._read(self._call)),
            ("large-reader", self._read(self._large_call)),
            ("writer", self._write_when_woken()),
            ("large-writer", self._write_large()),
        ):
            self._tasks.append(loop.create_task(work, name=f"envmesh-{name}-{self.address}"))

    async def _open_stream(self, role: int) -> tuple[Any, pb.Welcome]:
        call: Any = self._channel.stream_stream(STREAM)(metadata=(*self._credentials, *self.metadata))
        hello = pb.Hello(
            protocol_version=1,
            client_id=self.client_id,
            connection_id=self._connection_id,
            role=role,  # type: ignore[arg-type]
            liveness_window=_duration(self.liveness_window),
            checkpoint_steps=self._settings.checkpoint_steps,
            max_frame_bytes=self._settings.max_message_bytes,
        )
        if self._settings.checkpoint_interval:
            hello.checkpoint_interval.CopyFrom(_duration(self._settings.checkpoint_interval))
        try:
            await call.write(pb.StreamRequest(hello=hello).SerializeToString())
            data = await call.read()
            if data is grpc.aio.EOF:
                raise await self._end_of(call)
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from None
        except asyncio.InvalidStateError:
            raise await self._end_of(call) from None
        return call, pb.StreamResponse.FromString(data).welcome

    async def _end_of(self, call: Any) -> EnvmeshError:
        """Why a call ended, as an error."""
        code, details = await call.code(), await call.details()
        for key, value in await call.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                return errors.from_status(status_pb2.Status.FromString(value))
        if code is grpc.StatusCode.OK:
            self.parted = True
            return MeshUnavailable(f"host {self.address} closed the stream")
        status = status_pb2.Status(code=code.value[0], message=f"host {self.address}: {details or code.name}")
        return errors.from_status(status)

    async def close(self) -> None:
        """End the streams; no task is left afterwards. What was sent is heard first, for a call that is cancelled takes
        with it what its transport has not written."""
        self._closing = True
        if self.lost is None and self._call is not None and not self._writing:
            with contextlib.suppress(TimeoutError, grpc.aio.UsageError, grpc.RpcError):
                async with asyncio.timeout(PARTING_SECONDS):
                    await self._call.done_writing()
                    await self._call.code()
        self.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        calls = [call for call in (self._call, self._large_call) if call is not None]
        await asyncio.gather(*(call.code() for call in calls), return_exceptions=True)

    async def flush(self) -> None:
        """Wait until everything queued so far has been written, and what must keep its order has been carried out."""
        while (self.rows or self._writing or self.large.leads) and self.lost is None:
            if self.rows and not self._writing:
                await self.write(paced=False)  # whatever the host has taken up
            else:
                await asyncio.sleep(0.001)

    def give_up(self, error: EnvmeshError) -> None:
        """The host has been silent for too long: it is as good as lost."""
        self.silent = True
        self._note_lost(error)

    def cancel(self) -> None:
        """End the streams without waiting."""
        if self._next_frame is not None:
            self._next_frame.cancel()
        for call in (self._call, self._large_call):
            if call is not None:
                call.cancel()

    # ---- sending

    def bind(self, session: Session) -> int:
        """A new handle for a session."""
        handle = next(self._handles)
        self.sessions[handle] = session
        return handle

    def fresh_handle(self) -> int:
        """A handle that names nothing, for a command about none of our sessions."""
        return next(self._handles)

    def unbind(self, handle: int) -> None:
        """The handle names nothing any more."""
        self.sessions.pop(handle, None)

    def send(self, handle: int, index: int, kind: int, payload: bytes) -> None:
        """Queue one command. The reader's own sessions need no more; others call ``flush`` or ``wake`` after."""
        if len(payload) >= LARGE_VALUE_BYTES or (self.large.leads and kind in OF_SLOTS):
            self.large.send(handle, index, kind, payload)
            return
        self.rows.add(handle, index, kind, payload)
        if not self._reading and not self._writing:
            self._wake.set()

    def wake(self) -> None:
        """There are rows to write."""
        if not self._writing:
            self._wake.set()

    def put(self, handle: int, index: int, kind: int, payload: bytes) -> bool:
        """Queue one command. Returns whether the caller is to begin to write it: where hardly anybody else is about, a
        lone step then costs no switch of tasks."""
        if (
            self._writing
            or self.rows
            or len(self.sessions) > FEW_SESSIONS
            or len(payload) >= LARGE_VALUE_BYTES
            or self.large.leads
        ):
            self.send(handle, index, kind, payload)
            return False
        self.rows.add(handle, index, kind, payload)
        return True

    def oversize(self, size: int, what: str = "the action") -> InvalidRequest:
        """The error of what has more than ``max_value_bytes``."""
        return InvalidRequest(
            f"{what} has {size:,} bytes; {self.max_value_bytes:,} may be sent to host {self.address} "
            "(its max_value_bytes, or what max_message_bytes of this client leaves)",
            reason="MESSAGE_TOO_LARGE",
        )

    def heartbeat(self) -> None:
        """Send a sign of life with the next frame, or alone."""
        self._heartbeat_due = True
        self._wake.set()

    async def _write_when_woken(self) -> None:
        wake = self._wake
        while True:
            await wake.wait()
            wake.clear()
            await self.write()

    def begin_writing(self) -> None:
        """Write what is queued: for who sends a lone command. What cannot be done at once goes on by itself, for gRPC
        gives up the whole stream where a task that writes to it is cancelled, and the caller's may be."""
        go_on(self.write())

    async def write(self, paced: bool = True) -> None:
        """Write what is queued, unless that is being done already; and where it is ``paced``, as far as the host has
        come."""
        if self._writing:
            return
        self._writing = True
        time, pace = asyncio.get_running_loop().time, self._pace
        try:
            while (self.rows or self._heartbeat_due) and self.lost is None:
                now = time()
                if paced and not self._heartbeat_due and (wait := pace.wait(now)):
                    self._write_after(wait)
                    break
                pace.write(now)
                await self._call.write(self._frame())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._call.cancel()  # the reader says why
        finally:
            self._writing = False

    def _write_after(self, seconds: float) -> None:
        """What the host takes up wakes the writer anyway; where that is far away, the time does."""
        if seconds < math.inf and self._next_frame is None:

            def due() -> None:
                self._next_frame = None
                self.wake()

            self._next_frame = asyncio.get_running_loop().call_later(seconds, due)

    def _frame(self) -> bytes:
        rows = self.rows
        if len(rows) == 1 and not self._heartbeat_due:
            return rows.take_alone()
        frame = rows.take(len(self.sessions))
        if self._heartbeat_due:
            self._heartbeat_due = False
            self._sequence += 1
            frame.heartbeat.sequence = self._sequence
            frame.heartbeat.answer = self._challenge
        return frame.SerializeToString()

    async def _write_large(self) -> None:
        try:
            await self.large.write(self._large_call)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._call.cancel()

    # ---- receiving

    async def _read(self, call: Any) -> None:
        read, parse = call.read, pb.StreamResponse.FromString
        loop = asyncio.get_running_loop()
        error: EnvmeshError
        try:
            while True:
                data = await read()
                if data is grpc.aio.EOF:
                    error = await self._end_of(call)
                    break
                self.heard_at = loop.time()
                self._reading = True
                if (alone := read_outcome(data)) is not None:
                    handle, outcome, taken = alone
                    self._delivery.deliver_alone(handle, outcome)
                else:
                    frame = parse(data)
                    taken = frame.taken
                    self._delivery.deliver(frame)
                    if frame.HasField("heartbeat"):
                        self._heard(frame.heartbeat)
                if taken and call is self._call:
                    self._pace.take(taken, self.heard_at)
                for callback in tuple(self.after_frame):
                    callback()
                self._reading = False
                if self.rows and not self._writing:
                    if len(self.sessions) <= FEW_SESSIONS:
                        await self.write()  # so little that it cannot fill a buffer: no switch of tasks
                    else:
                        self._wake.set()
        except grpc.aio.AioRpcError as failure:
            error = errors.from_rpc_error(failure)
        except DecodeError:
            error = EnvmeshError(
                f"host {self.address} sent a frame that cannot be decoded", reason="MALFORMED"
            )
        except Exception as failure:
            log.error("a defect in a frame from %s", self.address, exc_info=failure)
            error = _defective(failure)
        except asyncio.CancelledError:
            if self._closing:
                raise
            error = MeshUnavailable(f"the stream to {self.address} was cancelled")
        self._reading = False
        self._note_lost(error)

    def _defect(self, handle: int, session: Session, error: Exception) -> None:
        """A defect of ours in what an event led to ends the episode that it was for, and nothing else. Whoever is bound
        by now hears of it: the event may have ended a rebuilding, which is over then and deaf."""
        log.error("a defect in an event of %r from %s", session, self.address, exc_info=error)
        self.send(handle, 0, CLOSE, b"")
        self.sessions.get(handle, session).fell(_defective(error))

    def _heard(self, heartbeat: pb.Heartbeat) -> None:
        if heartbeat.challenge:
            self._challenge = max(self._challenge, heartbeat.challenge)
            self.large.challenged(self._challenge)
            self.heartbeat()

    def _note_lost(self, error: EnvmeshError) -> None:
        if self.lost is not None or self._closing:
            return
        self.lost = error
        self.cancel()
        log.debug("connection to %s lost: %s", self.address, error)
        self.when_lost(self, error)


def _duration(seconds: float) -> duration_pb2.Duration:
    milliseconds = int(seconds * 1000)
    return duration_pb2.Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def _defective(error: Exception) -> EpisodeAborted:
    return EpisodeAborted(
        f"a defect of envmesh ({type(error).__name__}: {error}) in the client; its log has it",
        reason="INTERNAL",
    )


def failure_of(payload: bytes) -> EnvmeshError:
    """The error that a FAILURE event's payload stands for."""
    return errors.from_status(status_pb2.Status.FromString(payload))


def new_client_id() -> bytes:
    """16 random bytes: this client instance."""
    return secrets.token_bytes(16)
