"""Process isolation: episodes are played in worker processes, each of which serves this one environment."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from typing import Any

from envmesh.env import Definition
from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.death import Death, blame_for
from envmesh_host.isolation.job import CLOSE, RESET, RESUME, during, limit_exceeded, stopped
from envmesh_host.isolation.leaving import Leaving
from envmesh_host.isolation.nursery import Nursery, in_time
from envmesh_host.isolation.out_of_memory import OutOfMemory
from envmesh_host.isolation.pool import READ_BYTES, ROWS_AT_ONCE, Seat, WorkerLink, abandon, place_for
from envmesh_host.isolation.process_settings import ProcessSettings, configuration_of, worker_bounds
from envmesh_host.isolation.restraint import Restraint
from envmesh_host.isolation.runner import CopiesLost, Job
from envmesh_host.isolation.waiting import Waiting
from envmesh_host.isolation.watch import LimitWatch
from envmesh_host.player import EMPTY_ROW

__all__ = ["ProcessRunner", "ProcessSettings"]

log = logging.getLogger("envmesh.host")

CONNECTION_GRACE_SECONDS = 0.25
"""How long a worker may outlive its connection."""


class ProcessRunner:
    """A pool of worker processes, seen from the host's event loop.

    An episode is put on the worker with the fewest; where all are full, it waits for a seat. A worker that dies or
    overruns a limit ends what ran in it, precisely, and another is begun at once; one that dies again and again
    before it has answered anything, after a growing delay.
    """

    ends_code = True

    def __init__(
        self,
        definition: Definition,
        *,
        slots: int,
        copies_lost: CopiesLost,
        settings: ProcessSettings | None = None,
    ):
        self._definition = definition
        self._settings = settings or ProcessSettings()
        self._copies_lost = copies_lost
        self._seats_each = definition.declaration.worker_episodes
        self._capacity = self._seats_each
        self._spread, self._most = worker_bounds(self._settings.workers, self._seats_each, slots)
        self._nursery = Nursery(self, definition.key, configuration_of(definition, self._settings))
        self._workers: dict[int, WorkerLink] = {}
        self._processes: dict[int, WorkerLink] = {}
        self._waiting = Waiting()
        self._dirty: list[WorkerLink] = []
        self._shared = bytearray(READ_BYTES)
        self._numbers = 0
        self._info = b""
        self._asynchronous = False
        self._stopping = False
        self.deaths: dict[str, int] = {}  # workers that ended unasked since somebody last looked, by cause
        self._memory = OutOfMemory()
        self._restraint = Restraint(definition.key)
        self._watch = LimitWatch(
            lambda: list(self._workers.values()), self._end_overrun, shared=self._seats_each > 1
        )
        self._leaving = Leaving(
            self._workers, self._processes, self._nursery.kill_worker, self._settings.idle_seconds
        )
        self._replacing: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._ready: asyncio.Future[None]
        self._hello: asyncio.Future[pb.EnvironmentInfo]
        self._all_gone: asyncio.Event

    # ---- the runner's interface

    async def start(self) -> pb.EnvironmentInfo:
        """Import the environment in a forkserver, and have a first worker find out what it is.

        Raises:
            Refusal: it cannot be imported or created, is no environment, or takes too long to be either.
        """
        self._loop = asyncio.get_running_loop()
        self._hello, self._ready = self._loop.create_future(), self._loop.create_future()
        self._all_gone = asyncio.Event()
        self._nursery.open()
        key, limit = self._definition.key, self._definition.declaration.limits.reset_seconds
        try:
            await in_time(self._ready, self._settings.start_seconds, f"importing {key}")
            self._new_worker().on_hello = self._learn
            return await in_time(self._hello, limit, f"creating {key}")
        except BaseException:
            await self.stop(0.0)
            raise

    def seat(self, *, apart: bool = False) -> Seat:
        """A place for an episode; its reset or resume decides which worker that is."""
        return Seat(apart=apart)

    def submit(self, job: Job) -> None:
        """Begin a command."""
        seat = job.seat
        worker = seat.worker
        if worker is None or seat.job is not None or job.kind == CLOSE or seat.closing is not None:
            self._submit_unusual(job, seat)
            return
        seat.job = job
        self._put(worker, seat, job)

    def breathe(self, until: float) -> None:
        """Commands may begin up to this moment."""
        for worker in self._workers.values():
            worker.record.breath.until[0] = until

    def hold(self, seat: Seat, held: bool) -> None:
        """Whether commands of this episode are in doubt, and shall not begin."""
        if seat.worker is not None:
            seat.worker.record.breath.held[seat.handle] = float(held)

    @property
    def stuck(self) -> int:
        """Episodes closed over a second ago whose command still runs."""
        before = time.monotonic() - 1.0
        seats = (seat for worker in self._workers.values() for seat in worker.seats if seat is not None)
        return sum(1 for seat in seats if seat.closing is not None and 0 < seat.abandoned_at < before)

    @property
    def processes(self) -> int:
        """How many worker processes there are."""
        return len(self._processes)

    async def stop(self, grace_seconds: float) -> None:
        """Have each worker do what it has and close its environments; then end whatever is left."""
        self._stopping = True
        self._watch.cancel()
        self._leaving.cancel()
        ending = stopped()
        self._waiting.refuse(ending)
        for worker in list(self._workers.values()):
            worker.finish()
        if not self._processes:
            self._all_gone.set()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._all_gone.wait()
        except TimeoutError:
            pass
        self._nursery.close()
        for worker in list(self._workers.values()):
            self._bury(worker, lambda job: ending, ending)
        for worker in self._processes.values():
            worker.close_files()
        self._processes.clear()

    # ---- commands

    def _put(self, worker: WorkerLink, seat: Seat, job: Job) -> None:
        if job.kind == CLOSE and seat.abandoned_at:
            seat.limit_seconds = max(seat.limit_seconds, job.limit_seconds)
        else:
            seat.limit_seconds = job.limit_seconds
        worker.put(job, seat.handle)
        if not worker.dirty:
            worker.dirty = True
            if not self._dirty:
                self._loop.call_soon(self._flush)
            self._dirty.append(worker)
        elif worker.waiting_rows >= ROWS_AT_ONCE:
            worker.flush()
            worker.dirty = True
        self._watch.wake(job.limit_seconds)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for worker in dirty:
            worker.flush()

    def _submit_unusual(self, job: Job, seat: Seat) -> None:
        soon = self._loop.call_soon
        if job.kind == CLOSE:
            if seat.worker is None:
                abandon(seat, 0.0, soon)  # it waited for a worker, if it was anywhere
                soon(job.done, job, EMPTY_ROW)
                return
            abandon(seat, time.monotonic(), soon)
            seat.closing = job
            self._put(seat.worker, seat, job)
        elif seat.job is not None or seat.closing is not None:
            busy = Refusal("the episode has another command under way", reason="INTERNAL")
            soon(job.done, job, busy)
        elif seat.refusal is not None:
            soon(job.done, job, seat.refusal)
        elif job.kind not in (RESET, RESUME):
            soon(job.done, job, Refusal("no episode was begun here", reason="EPISODE_UNKNOWN"))
        elif self._stopping:
            soon(job.done, job, stopped())
        else:
            seat.job = job
            self._waiting.add(job)
            self._place_waiting()

    # ---- workers

    def _place_waiting(self) -> None:
        for job, worker in self._waiting.placed(self._choose):
            worker.seat(job.seat)
            self._put(worker, job.seat, job)

    def _choose(self, apart: bool) -> WorkerLink | None:
        """The worker for an episode's beginning: one that there is, or a new one; None where all are full."""
        best, another = place_for(self._workers.values(), apart, self._most, self._spread)
        if another and not self._stopping and self._loop.time() >= self._restraint.until:
            try:
                return self._new_worker()
            except OSError as error:
                self._no_room(error)
        return best

    def _no_room(self, error: OSError) -> None:
        """No worker can be begun. Episodes wait for one of those there are; where there is none, they are refused."""
        self._restraint.no_room(self._loop.time(), error)
        self._replace_later()
        if not self._workers:
            words = f"no worker of {self._definition.key} can be begun here: {error}"
            refusal = Refusal(words, reason="NO_CAPACITY", retry_after=1.0)
            self._waiting.refuse(refusal)
            if not self._hello.done():
                self._hello.set_exception(refusal)

    def _new_worker(self) -> WorkerLink:
        self._numbers += 1
        if not self._processes:
            self._memory.look()  # what was killed before was none of these
        worker = WorkerLink(self._numbers, self._seats_each, self._shared, self._freed, self._broken)
        worker.free = worker.free[-self._capacity :]
        worker.asynchronous = self._asynchronous
        worker.empty_since = self._loop.time()
        self._workers[worker.number] = self._processes[worker.number] = worker
        worker.hello(self._info, self._asynchronous)
        self._nursery.start_worker(worker.number, worker.theirs, worker.record_file)
        return worker

    def _learn(self, info: pb.EnvironmentInfo | Refusal, asynchronous: bool) -> None:
        """The first worker says what is served."""
        (probe,) = self._workers.values()
        if isinstance(info, Refusal):
            if not self._hello.done():
                self._hello.set_exception(info)
            return
        self._info, self._asynchronous = info.SerializeToString(), asynchronous
        if asynchronous and self._definition.declaration.global_random:
            self._capacity = 1
        probe.asynchronous = asynchronous
        probe.free = probe.free[-self._capacity :]
        if not self._hello.done():
            self._hello.set_result(info)

    def _freed(self, worker: WorkerLink) -> None:
        """A seat became free."""
        if self._stopping:
            return
        if worker.retired and not worker.episodes:
            self._leaving.dismiss(worker)
        self._place_waiting()
        if not worker.episodes:
            self._leaving.wake()

    # ---- limits

    def _end_overrun(self, worker: WorkerLink, seat: Seat, since: float) -> None:
        worker.drain()
        if worker.number not in self._workers or worker.record.since[seat.handle] != since:
            return  # it ended just now
        job = seat.job or seat.closing
        assert job is not None
        limit, what = seat.limit_seconds, during(job.kind, job.index)
        self._nursery.kill_worker(worker.number)
        self._note_death("overran")
        message = f"its worker was ended, for another episode's {what} overran its limit of {limit:g} s"
        others = Refusal(message, reason="WORKER_LOST")

        def blame(job: Job) -> Refusal:
            if job.seat is not seat:
                return others
            return limit_exceeded(job.kind, job.index, limit, "and its worker was ended")

        self._bury(worker, blame, others)

    # ---- deaths

    def worker_unborn(self, number: int, error: OSError) -> None:
        """There was no room for a worker's process: the episodes that were to begin in it wait for another."""
        worker = self._processes.pop(number, None)
        if worker is not None:
            self._workers.pop(number, None)
            worker.close_files()
            for seat, job, closing in worker.vacate():
                if closing is not None:
                    closing.done(closing, EMPTY_ROW)
                elif job is not None:
                    seat.job = job
                    self._waiting.add(job)
            if self._stopping:
                self._waiting.refuse(stopped())
            else:
                self._no_room(error)
                self._place_waiting()
        if not self._processes:
            self._all_gone.set()

    def worker_exited(self, number: int, status: int, last_words: str) -> None:
        """A worker process is gone."""
        worker = self._processes.pop(number, None)
        if worker is not None and number in self._workers:
            starved = status == -signal.SIGKILL and self._memory.take()
            death = Death(self._definition.key, status, last_words, worker.broken, starved)
            if not self._stopping:
                self._note_death("killed" if death.from_outside else "crashed")
            worker.drain()
            if worker.on_hello is not None and not self._hello.done():
                self._hello.set_exception(death.refusal("the creation of the environment"))
            if not worker.rows:
                self._restraint.failed(self._loop.time())
            jobs = [job for seat in worker.running_seats() if (job := seat.job or seat.closing) is not None]
            blame, others = blame_for(death, jobs)
            if self._stopping and status == 0:
                others = stopped()
            self._bury(worker, blame, others)
        elif worker is not None:
            worker.close_files()
        if not self._processes:
            self._all_gone.set()

    def _note_death(self, cause: str) -> None:
        self.deaths[cause] = self.deaths.get(cause, 0) + 1

    def _bury(self, worker: WorkerLink, blame: Callable[[Job], Refusal], others: Refusal) -> None:
        """Tell whoever had an episode there, and begin another worker."""
        worker.drain()
        running = worker.running_seats()
        if self._workers.pop(worker.number, None) is None:
            return
        worker.close_files()
        idle: list[Any] = []
        for seat, job, closing in worker.vacate():
            seat.refusal = others
            if job is not None:
                seat.refusal = refusal = blame(job) if seat in running else others
                job.done(job, refusal)
            if closing is not None:
                ran = seat in running and not seat.abandoned_at
                closing.done(closing, blame(closing) if ran else EMPTY_ROW)
            elif job is None:
                idle.append(seat)
        if idle and not self._stopping:
            self._copies_lost(idle, others)
        self._replace()

    def _replace(self) -> None:
        """Have a worker ready for the next episode, as there was one before."""
        if self._stopping:
            return
        self._place_waiting()
        if self._restraint.until > self._loop.time():
            self._replace_later()
        elif len(self._workers) < self._spread and all(worker.episodes for worker in self._workers.values()):
            try:
                self._new_worker()
            except OSError as error:
                self._no_room(error)

    def _replace_later(self) -> None:
        if self._replacing is None:
            self._replacing = self._loop.call_at(self._restraint.until, self._replace_again)

    def _replace_again(self) -> None:
        self._replacing = None
        self._replace()

    def _broken(self, worker: WorkerLink) -> None:
        """A worker's connection ended: it is about to be gone, or will be."""
        self._loop.call_later(0 if worker.broken else CONNECTION_GRACE_SECONDS, self._end_broken, worker)

    def _end_broken(self, worker: WorkerLink) -> None:
        if worker.number in self._workers:
            worker.broken = worker.broken or "closed its connection"
            self._nursery.kill_worker(worker.number)

    def nursery_ready(self) -> None:
        """The environment's imports are done."""
        if not self._ready.done():
            self._ready.set_result(None)

    def nursery_lost(self, refusal: Refusal) -> None:
        """The forkserver is gone, and every worker with it."""
        for future in (self._ready, self._hello):
            if not future.done():
                future.set_exception(refusal)
                future.exception()  # only one of the two is awaited
        if self._stopping or not self._info:
            return
        log.warning("%s", refusal, extra={"environment": self._definition.key})
        self._restraint.failed(self._loop.time())
        for number, worker in list(self._processes.items()):
            del self._processes[number]
            if number not in self._workers:
                worker.close_files()
        self._restraint.until = max(self._restraint.until, self._loop.time() + 0.05)
        if refusal.reason != "WORKER_LOST":
            self._waiting.refuse(refusal)
        for worker in list(self._workers.values()):
            self._bury(worker, lambda job: refusal, refusal)
        self._loop.call_later(self._restraint.until - self._loop.time(), self._reopen)

    def _reopen(self) -> None:
        if self._stopping:
            return
        try:
            self._nursery.open()
        except OSError as error:
            self._no_room(error)
            self._loop.call_later(self._restraint.until - self._loop.time(), self._reopen)
            return
        self._restraint.until = 0.0
        self._replace()
