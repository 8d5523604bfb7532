"""The host's side of one worker process: its socket, its seats and its record."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation import record
from envmesh_host.isolation.frames import (
    CLOSED,
    FAILURE,
    FrameReader,
    columns_of,
    refusal_of,
    request_frame,
    response_of,
)
from envmesh_host.isolation.job import CLOSE, STEP, cancelled
from envmesh_host.isolation.runner import Job
from envmesh_host.player import EMPTY_ROW

__all__ = ["ROWS_AT_ONCE", "Seat", "WorkerLink", "abandon", "place_for"]

ROWS_AT_ONCE = 128
"""A request this long is sent before the loop's turn ends, so that the worker may begin."""

READ_BYTES = 256 * 1024


class Seat:
    """An episode's place. ``worker`` and ``handle`` say where it was put; ``refusal``, why it is lost; ``apart``, that
    no other may share its worker until it has been stepped once."""

    __slots__ = ("abandoned_at", "apart", "closing", "handle", "job", "limit_seconds", "refusal", "worker")

    def __init__(self, *, apart: bool = False) -> None:
        self.apart = apart
        self.worker: WorkerLink | None = None
        self.handle = 0
        self.job: Job | None = None
        self.closing: Job | None = None
        self.limit_seconds = 0.0
        self.abandoned_at = 0.0
        self.refusal: Refusal | None = None


class WorkerLink:
    """One worker process, as its host sees it. ``on_freed`` hears when a seat became free, ``on_broken`` when the
    connection ended or carried garbage (``broken`` then says what)."""

    def __init__(
        self,
        number: int,
        seats: int,
        shared: bytearray,
        on_freed: Callable[[WorkerLink], None],
        on_broken: Callable[[WorkerLink], None],
    ):
        self.number = number
        self.seats: list[Seat | None] = [None] * (seats + 1)
        self.free = list(range(seats, 0, -1))
        self.episodes = 0
        self.apart: Seat | None = None
        self.asynchronous = False
        self.retired = False
        self.empty_since = 0.0
        self.broken: str | None = None
        self.dirty = False
        self.rows = 0
        self.on_hello: Callable[[pb.EnvironmentInfo | Refusal, bool], None] | None = None
        self._shared = memoryview(shared)
        self._on_freed = on_freed
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(response=True)
        self._unsent = bytearray()
        self._handles: list[int] = []
        self._payloads: list[bytes] = []
        self._kinds: list[Any] = []
        self._indices: list[int] = []
        self._limits: list[int] = []
        self._mixed = False
        self.connection, self.theirs = socket.socketpair()
        self.connection.setblocking(False)
        try:
            self.record_file, self.record = record.create(seats)
        except OSError:
            self.connection.close()
            self.theirs.close()
            raise
        self._loop.add_reader(self.connection, self._readable)

    # ---- seats

    def seat(self, seat: Seat) -> None:
        """Put an episode here."""
        seat.worker, seat.handle = self, self.free.pop()
        self.seats[seat.handle] = seat
        self.episodes += 1
        if seat.apart:
            self.apart = seat

    def unseat(self, seat: Seat) -> None:
        """Free an episode's place."""
        self.seats[seat.handle] = None
        self.record.breath.held[seat.handle] = 0.0
        self.free.append(seat.handle)
        self.episodes -= 1
        seat.worker, seat.closing, seat.job = None, None, None
        if self.apart is seat:
            self.apart = None
        if not self.episodes:
            self.empty_since = self._loop.time()
        self._on_freed(self)

    @property
    def busy(self) -> bool:
        """Whether a command of any episode here is unanswered."""
        return any(seat is not None and (seat.job or seat.closing) for seat in self.seats)

    def running_seats(self) -> set[Seat]:
        """The seats whose commands run now, or ran last, as far as the record tells."""
        seats = self.seats
        running = {seat for handle in self.record.running() if (seat := seats[handle]) is not None}
        return running or ({seat for seat in seats if seat is not None} if self.episodes == 1 else set())

    # ---- sending

    def hello(self, info: bytes, asynchronous: bool) -> None:
        """Say what is served; with empty info, the worker is to find out and answer."""
        self._unsent += request_frame(pb.StreamRequest(payloads=[info], indices=[int(asynchronous)]))
        self._write()

    def put(self, job: Job, handle: int) -> None:
        """Take a command along; ``flush`` sends it."""
        self._handles.append(handle)
        self._payloads.append(job.payload)
        self._kinds.append(job.kind)
        self._indices.append(job.index)
        if job.kind != STEP:
            self._mixed = True
        if self.asynchronous:
            self._limits.append(min(max(int(job.limit_seconds * 1e3), 1), 0xFFFFFFFF))

    @property
    def waiting_rows(self) -> int:
        """How many commands the next ``flush`` sends."""
        return len(self._handles)

    def flush(self) -> None:
        """Send what was put."""
        self.dirty = False
        if not self._handles:
            return
        request = pb.StreamRequest(handles=self._handles, payloads=self._payloads)
        if self._mixed:
            request.kinds.extend(self._kinds)
            request.indices.extend(self._indices)
        if self.asynchronous:
            request.timeouts.extend(self._limits)
        self._handles, self._payloads, self._kinds, self._indices, self._limits = [], [], [], [], []
        self._mixed = False
        frame = request_frame(request)
        if self._unsent:
            self._unsent += frame
            return
        try:
            sent = self.connection.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it has ended, which its exit will tell
        if sent < len(frame):
            self._unsent += memoryview(frame)[sent:]
            self._loop.add_writer(self.connection, self._write)

    def _write(self) -> None:
        while self._unsent:
            try:
                sent = self.connection.send(self._unsent)
            except BlockingIOError:
                self._loop.add_writer(self.connection, self._write)
                return
            except OSError:
                self._unsent.clear()
                break
            del self._unsent[:sent]
        self._loop.remove_writer(self.connection)

    def finish(self) -> None:
        """No further command: the worker does what it has, closes its environments and ends."""
        self.retired = True
        self.flush()
        try:
            self.connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    # ---- receiving

    def _readable(self) -> None:
        if self._receive() == 0:
            self._loop.remove_reader(self.connection)
            self._on_broken(self)

    def _receive(self) -> int | None:
        """Take what has come, at most so much: how many bytes, None where there are none now, 0 at the end."""
        try:
            count = self.connection.recv_into(self._shared)
        except BlockingIOError:
            return None
        except OSError:
            return 0
        try:
            for frame in self._reader.feed(bytes(self._shared[:count])):
                self._answer(frame)
        except ValueError as error:
            self.broken = f"wrote garbage into its connection ({error})"
            return 0
        return count

    def drain(self) -> None:
        """Take the answers that a dead or doomed worker has written."""
        while self.broken is None and self._receive():
            pass

    def _answer(self, frame: bytes) -> None:
        response, seconds = response_of(frame)
        seats = self.seats
        self.rows += len(seconds)
        if response.kinds:
            self._answer_mixed(response, seconds.tolist())
            return
        rows = zip(columns_of(response), seconds, strict=False)
        for (handle, payload, reward, flags, digest, info), running_seconds in rows:
            seat = seats[handle] if handle < len(seats) else None
            job = seat.job if seat is not None else None
            if job is None:
                if handle == 0:
                    self._answer_hello(payload, flags)
                continue
            seat.job = None  # type: ignore[union-attr]
            job.running_seconds = running_seconds
            if seat is self.apart and job.kind == STEP:
                self._acquitted()
            job.done(job, (payload, reward, flags, digest, info))

    def _answer_mixed(self, response: pb.StreamResponse, seconds: list[float]) -> None:
        rows = zip(columns_of(response), response.kinds, response.indices, seconds, strict=False)
        for (handle, payload, reward, flags, digest, info), kind, command, running_seconds in rows:
            seat = self.seats[handle] if handle < len(self.seats) else None
            if seat is None:
                if handle == 0 and kind == FAILURE and self.on_hello is not None:
                    self.on_hello(refusal_of(payload), False)
                continue
            result = refusal_of(payload) if kind == FAILURE else (payload, reward, flags, digest, info)
            job = seat.closing if command == CLOSE else seat.job
            if command == CLOSE:
                if isinstance(result, Refusal) and result.reason == "LIMIT_EXCEEDED":
                    self.retired = True  # code that cannot be cancelled still runs here
                self.unseat(seat)
                result = EMPTY_ROW if kind == CLOSED else result
            elif job is not None:
                seat.job = None
                if seat is self.apart and job.kind == STEP and kind != FAILURE:
                    self._acquitted()
            if job is not None:
                job.running_seconds = running_seconds
                job.done(job, result)

    def _acquitted(self) -> None:
        """The episode that was kept apart has done its step: others may join it."""
        assert self.apart is not None
        self.apart.apart, self.apart = False, None
        self._loop.call_soon(self._on_freed, self)

    def _answer_hello(self, payload: bytes, flags: int) -> None:
        if self.on_hello is not None:
            self.on_hello(pb.EnvironmentInfo.FromString(payload), bool(flags))

    # ---- the end

    def vacate(self) -> Iterator[tuple[Seat, Job | None, Job | None]]:
        """Empty the seats of a worker that is gone: each episode's, with the command and the close that ran there."""
        for seat in self.seats:
            if seat is not None:
                job, closing = seat.job, seat.closing
                seat.worker, seat.job, seat.closing = None, None, None
                yield seat, job, closing

    def close_files(self) -> None:
        """Let go of everything this side holds. Again: does nothing."""
        if self.connection.fileno() < 0:
            return
        self._loop.remove_reader(self.connection)
        self._loop.remove_writer(self.connection)
        self.connection.close()
        self.record.close()


def least_full(workers: Iterable[WorkerLink]) -> WorkerLink | None:
    """The worker with the fewest episodes of those that take one more."""
    open_ = [worker for worker in workers if worker.free and not worker.retired and worker.apart is None]
    return min(open_, key=lambda worker: worker.episodes, default=None)


def place_for(
    workers: Collection[WorkerLink], apart: bool, most: int, spread: int
) -> tuple[WorkerLink | None, bool]:
    """Where an episode may begin among these workers, and whether it should rather in a new one: while that spreads
    them better, or where all are full, up to ``most``. One that is to be ``apart`` gets an empty one, or a new one
    though there are enough for the others; where there can be no more, as each has its acquitted suspect, the one with
    the fewest episodes."""
    best = least_full(workers)
    if best is not None and best.episodes == 0:
        return best, False
    tried = sum(worker.apart is not None for worker in workers)
    if apart:
        room = most + spread > len(workers)
        return (None if room or tried >= spread else best), room
    bound = most if best is None else spread
    return best, bound + tried > len(workers)


def abandon(seat: Seat, moment: float, soon: Callable[..., object]) -> None:
    """The episode is being closed: whoever waits for its other command hears so at once."""
    job, seat.job = seat.job, None
    if job is not None:
        seat.abandoned_at = moment
        soon(job.done, job, cancelled())
