"""Thread isolation: an environment that blocks is played in threads, an asynchronous one in a thread with a loop."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Iterable
from typing import Any

from envmesh.env import Definition
from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.job import CLOSE, RESET, RESUME, during, limit_exceeded
from envmesh_host.isolation.loop_thread import LoopThread
from envmesh_host.isolation.open_jobs import LocalBreath, LocalSeat, OpenJobs
from envmesh_host.isolation.runner import CopiesLost, Job
from envmesh_host.isolation.thread_pool import ThreadPool
from envmesh_host.player import EMPTY_ROW
from envmesh_host.served import Served

__all__ = ["ThreadRunner"]

LOOP_GRACE_SECONDS = 2.0
"""A loop cancels an overrunning command itself; one that has not by then is stuck as a whole."""

LOOK_SECONDS = 0.5


class ThreadRunner(LocalBreath):
    """Plays the episodes of one environment in threads.

    A thread cannot be ended. One whose command overran its limit is given up: the command is answered at once, another
    thread takes its place, and until it returns it counts as ``stuck``, for it still holds what it holds. Once there
    are as many of those as slots, no further episode begins.
    """

    def __init__(
        self, definition: Definition, *, slots: int, copies_lost: CopiesLost, threads: int | None = None
    ):
        self._definition = definition
        self._copies_lost = copies_lost
        self._slots = slots
        self._most = threads or min(slots, 256)
        self._open = OpenJobs()
        self._pool: ThreadPool | None = None
        self._loops: LoopThread | None = None
        self._stuck_loops: list[LoopThread] = []
        self._woken = False
        self._seats: set[LocalSeat] = set()
        self._turned = asyncio.Event()
        self._shortest = LOOK_SECONDS
        self._watch: asyncio.TimerHandle | None = None
        self._served: Served
        self._loop: asyncio.AbstractEventLoop

    async def start(self) -> pb.EnvironmentInfo:
        """Create an instance, in a thread, and say what is served.

        Raises:
            Refusal: it cannot be created, is no environment, takes longer than its reset may, or declares
                ``global_random`` (UNSUPPORTED): threads would draw from each other's randomness.
        """
        declaration, key = self._definition.declaration, self._definition.key
        if declaration.global_random:
            message = "uses the global random generators; serve it with process isolation"
            raise Refusal(f"{key} {message}", reason="UNSUPPORTED")
        self._loop = asyncio.get_running_loop()
        limit = declaration.limits.reset_seconds
        try:
            async with asyncio.timeout(limit):
                self._served = await self._prepare()
        except TimeoutError:
            raise Refusal(f"creating {key} took longer than {limit:g} s", reason="LIMIT_EXCEEDED") from None
        if self._served.asynchronous:
            self._loops = LoopThread(self._served, self._wake, self._may_begin)
        else:
            self._pool = ThreadPool(self._served, self._most, self._wake, self._may_begin)
        return self._served.info

    def _prepare(self) -> asyncio.Future[Served]:
        ready: asyncio.Future[Served] = self._loop.create_future()

        def settle(served: Served | None, error: Exception | None) -> None:
            if not ready.done() and served is not None:
                ready.set_result(served)
            elif not ready.done() and error is not None:
                ready.set_exception(error)

        def create() -> None:
            served, problem = None, None
            try:
                served = Served.prepare(self._definition)
            except Exception as error:
                problem = error
            except BaseException as error:
                message = f"creating the environment raised {type(error).__name__}: {error}"
                problem = Refusal(message, reason="ENVIRONMENT_RAISED")
            self._call(functools.partial(settle, served, problem))

        threading.Thread(target=create, name=f"{self._definition.key} creation", daemon=True).start()
        return ready

    def seat(self, *, apart: bool = False) -> LocalSeat:
        """Room for a new episode; ``apart`` has no meaning here."""
        return LocalSeat()

    def submit(self, job: Job) -> None:
        """Begin a command."""
        if not self._open.admit(job, self._all_stuck() if job.kind in (RESET, RESUME) else None):
            return
        self._seats.add(job.seat)
        if self._loops is not None:
            self._loops.submit(job)
        elif job.kind == CLOSE:
            self._close(job)
        else:
            self._to_pool(job)
        if job.limit_seconds < self._shortest * 8:
            self._shortest = max(job.limit_seconds / 8, 0.01)
        if self._watch is None:
            self._watch = self._loop.call_later(self._shortest, self._look)

    def _all_stuck(self) -> Refusal | None:
        """Why no further episode may begin, where none may."""
        stuck = self.stuck
        if stuck < self._slots:
            return None
        words = f"code that does not return holds {stuck} of {self._slots} slots of {self._definition.key}"
        return Refusal(words, reason="NO_CAPACITY", retry_after=1.0)

    @property
    def stuck(self) -> int:
        """Threads that were given up and still run; of a stuck loop, its episodes."""
        if self._pool is not None:
            return len(self._pool.given_up)
        self._stuck_loops = [loop for loop in self._stuck_loops if not loop.ended]
        stuck = sum(len(loop.seats) for loop in self._stuck_loops)
        return stuck + (self._loops.stuck if self._loops is not None else 0)

    async def stop(self, grace_seconds: float) -> None:
        """Close every episode, and end the threads; one that is stuck stays, as a daemon, until the process ends."""
        if self._watch is not None:
            self._watch.cancel()
        for seat in list(self._seats):
            if seat.closing is None and self._loops is None and not self._open.stopping:
                self.submit(Job(CLOSE, seat, 0, b"", grace_seconds, lambda job, result: None))
        self._open.stopping = True
        if self._loops is not None:
            self._loops.submit(None)
        try:
            async with asyncio.timeout(grace_seconds):
                while self._seats or (self._loops is not None and not self._loops.ended):
                    self._turned.clear()
                    await self._turned.wait()
        except TimeoutError:
            pass
        if self._watch is not None:
            self._watch.cancel()
        for thread in self._pool.end() if self._pool is not None else ():
            thread.join(timeout=1.0)
        for loop in self._loop_threads():
            if loop.ended:
                loop.thread.join(timeout=1.0)
        self._open.refuse_all(Refusal("the host stopped", reason="PREEMPTED"))

    # ---- answers

    def _wake(self) -> None:
        """Called in any thread: something is finished."""
        if not self._woken:
            self._woken = True
            self._call(self._deliver)

    def _call(self, function: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            pass  # the host's loop is gone, and nobody waits

    def _deliver(self) -> None:
        self._woken = False
        self._turned.set()
        if self._pool is not None:
            for _, job, result, seconds in self._pool.finished():
                seat: LocalSeat = job.seat
                seat.busy = None
                self._answer(job, job.kind == CLOSE, result, seconds)
                if seat.closing is not None:
                    self._to_pool(seat.closing)
        for loop in self._loop_threads():
            for seat, closed, result, seconds in loop.finished():
                self._answer(seat.closing if closed else seat.job, closed, result, seconds, seat)

    def _answer(self, job: Job | None, closed: bool, result: Any, seconds: float, seat: Any = None) -> None:
        if closed:
            self._seats.discard(job.seat if job is not None else seat)
        self._open.answer(job, result, seconds)

    def _to_pool(self, job: Job) -> None:
        assert self._pool is not None
        job.seat.busy = job
        self._pool.submit(job)

    def _loop_threads(self) -> Iterable[LoopThread]:
        return () if self._loops is None else (self._loops, *self._stuck_loops)

    def _close(self, job: Job) -> None:
        """Close an episode of the pool: now, or when the command that a thread has is done."""
        seat: LocalSeat = job.seat
        if seat.given_up:
            self._seats.discard(seat)
            self._loop.call_soon(self._open.answer, job, EMPTY_ROW, 0.0)
        elif seat.busy is None:
            self._to_pool(job)

    # ---- limits

    def _look(self) -> None:
        """See what runs, and give up what overran."""
        self._watch = None
        now = time.monotonic()
        if self._pool is not None:
            for thread in list(self._pool.threads):
                running = thread.running
                if running is not None and now - running[1] > running[0].limit_seconds:
                    self._overrun(running[0], now - running[1])
                    self._pool.give_up(thread)
        elif self._loops is not None:
            for seat, since in list(self._loops.running.items()):
                job = seat.job or seat.closing
                if job is not None and now - since > job.limit_seconds + LOOP_GRACE_SECONDS:
                    self._lose_loop(self._loops, job, now - since)
                    break
        if self._open.jobs:
            self._watch = self._loop.call_later(self._shortest, self._look)

    def _overrun(self, job: Job, seconds: float) -> None:
        seat: LocalSeat = job.seat
        refusal = limit_exceeded(job.kind, job.index, job.limit_seconds, "and holds its thread")
        seat.refusal, seat.given_up = refusal, True
        if seat.closing is not None and seat.closing is not job:
            self._seats.discard(seat)
            self._open.answer(seat.closing, EMPTY_ROW, 0.0)
        self._open.answer(job, refusal, seconds)

    def _lose_loop(self, loop: LoopThread, culprit: Job, seconds: float) -> None:
        """The loop does not turn any more: its episodes are lost, and a new loop serves the next ones."""
        what, limit = during(culprit.kind, culprit.index), culprit.limit_seconds
        self._loops = LoopThread(self._served, self._wake, self._may_begin)
        self._stuck_loops.append(loop)
        loop.leave()
        message = f"its event loop is blocked, for another episode's {what} overran its limit of {limit:g} s"
        others = Refusal(message, reason="WORKER_LOST")
        idle = []
        for seat in loop.seats:
            seat.refusal = others
            self._seats.discard(seat)
            if seat.job is None and seat.closing is None:
                idle.append(seat)
            elif seat.job is culprit:
                seat.refusal = limit_exceeded(culprit.kind, culprit.index, limit, "and blocks its event loop")
                self._open.answer(culprit, seat.refusal, seconds)
            else:
                self._open.answer(seat.job, others, 0.0)
                self._open.answer(seat.closing, EMPTY_ROW, 0.0)
        if idle:
            self._copies_lost(idle, others)
