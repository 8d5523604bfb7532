"""Threads that carry out the commands of a synchronous environment, a bounded number at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.breath import LOOK_SECONDS
from envmesh_host.isolation.job import CHECKPOINT, CLOSE, RESET, RESUME, REWARD, STEP, cancelled, during
from envmesh_host.isolation.open_jobs import LocalSeat
from envmesh_host.isolation.runner import Job
from envmesh_host.player import EMPTY_ROW, Player
from envmesh_host.served import Row, Served
from envmesh_host.shown import raised

__all__ = ["PoolThread", "ThreadPool"]

log = logging.getLogger("envmesh.host")

STRETCH_SECONDS = 0.05
"""A journal is played again for so long at most before its thread is another command's."""

Finished = tuple["PoolThread", Job, Row | Refusal, float]


class PoolThread:
    """One thread. ``running`` is its job and since when; ``given_up`` is set when it has been stuck too long to be
    waited for: it ends after the job it has."""

    __slots__ = ("given_up", "running", "thread")

    def __init__(self) -> None:
        self.running: tuple[Job, float] | None = None
        self.given_up = False
        self.thread: threading.Thread


class ThreadPool:
    """At most ``most`` threads, begun as they are needed, beside those that were given up.

    They are daemons: a thread cannot be ended from outside, and a stuck one must not keep the process alive.
    """

    def __init__(
        self, served: Served, most: int, wake: Callable[[], None], may_begin: Callable[[LocalSeat], bool]
    ):
        self._served = served
        self._most = most
        self._wake = wake
        self._may_begin = may_begin
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._finished: deque[Finished] = deque()
        self._outstanding = 0
        self.threads: list[PoolThread] = []
        self.given_up: set[PoolThread] = set()

    def submit(self, job: Job) -> None:
        """Have a thread carry out a command, as soon as one is free."""
        self._outstanding += 1
        if self._outstanding > len(self.threads) < self._most:
            self._begin_thread()
        self._queue.put(job)

    def finished(self) -> list[Finished]:
        """The commands that are done; to be asked in the event loop, after ``wake``."""
        taken = []
        while self._finished:
            finished = self._finished.popleft()
            if finished[0].given_up:
                self.given_up.discard(finished[0])
            else:
                self._outstanding -= 1
            taken.append(finished)
        return taken

    def give_up(self, thread: PoolThread) -> None:
        """Wait no more for a thread: another may take its place."""
        thread.given_up = True
        self.threads.remove(thread)
        self.given_up.add(thread)
        self._outstanding -= 1
        if self._outstanding > len(self.threads) < self._most:
            self._begin_thread()

    def end(self) -> list[threading.Thread]:
        """Have every thread end after what it has; returns those that are about to."""
        for _ in self.threads:
            self._queue.put(None)
        return [state.thread for state in self.threads if state.running is None]

    def _begin_thread(self) -> None:
        state = PoolThread()
        name = f"{self._served.definition.key} {len(self.threads) + 1}"
        state.thread = threading.Thread(target=self._work, args=(state,), name=name, daemon=True)
        self.threads.append(state)
        state.thread.start()

    def _work(self, state: PoolThread) -> None:
        while not state.given_up:
            job = self._queue.get()
            if job is None:
                return
            if job.kind != CLOSE and job.seat.closing is None and not self._may_begin(job.seat):
                time.sleep(LOOK_SECONDS)
                self._queue.put(job)  # it is in doubt (breath.py); others may not be
                continue
            started = time.monotonic()
            state.running = (job, started)
            result: Row | Refusal | None
            try:
                if job.kind != CLOSE and job.seat.closing is not None:
                    raise cancelled()
                result = (
                    replay_on(self._served, job, state)
                    if job.kind == RESUME
                    else carry_out(self._served, job)
                )
            except Refusal as refusal:
                result = refusal
            except BaseException as error:  # sys.exit() in an environment is its own failure only
                result = raised(during(job.kind), error)
            state.running = None
            job.running_seconds += time.monotonic() - started
            if result is None and not state.given_up:
                self._queue.put(job)  # there is more to replay, after those who wait
                continue
            if job.seat.given_up:
                self._close_late(job.seat)
            self._finished.append((state, job, result or cancelled(), job.running_seconds))
            self._wake()

    def _close_late(self, seat: LocalSeat) -> None:
        """Nobody waits for this episode any more, so its thread closes it."""
        player, seat.player = seat.player, None
        try:
            if player is not None:
                player.close()
        except BaseException as error:
            log.warning("closing an episode that was given up: %s", error)


def carry_out(served: Served, job: Job) -> Row:
    """Carry out a command of an episode, whose player is kept in its seat."""
    seat: LocalSeat = job.seat
    kind, player = job.kind, seat.player
    if kind == STEP and player is not None:
        return player.step(job.payload)
    if kind in (RESET, CLOSE):
        seat.player = None
        if player is not None:
            player.close()
        if kind == CLOSE:
            return EMPTY_ROW
        player = seat.player = Player(served)
        return player.reset(pb.ResetRequest.FromString(job.payload))
    if player is None:
        raise Refusal("no episode was begun here", reason="EPISODE_UNKNOWN")
    if kind == REWARD:
        return player.reward(job.index)
    if kind == CHECKPOINT:
        return player.checkpoint()
    raise Refusal(f"there is no command of kind {kind}", reason="INTERNAL")


def replay_on(served: Served, job: Job, state: PoolThread) -> Row | None:
    """Play a stretch of an episode's journal: the result, None where there is more. Each step has the limit of one."""
    seat: LocalSeat = job.seat
    if seat.replay is None:
        player, seat.player = seat.player, None
        if player is not None:
            player.close()
        player = seat.player = Player(served)
        seat.replay = player.resume_by_steps(pb.ResumeRequest.FromString(job.payload))
    end = time.monotonic() + STRETCH_SECONDS
    now = 0.0
    while now < end:
        if seat.given_up or seat.closing is not None:
            seat.replay = None
            raise cancelled()
        try:
            row = next(seat.replay)
        except BaseException:
            seat.replay = None
            raise
        if row is not None:
            seat.replay = None
            return row
        now = time.monotonic()
        state.running = (job, now)
    return None
