"""Seats, breath and open jobs of the isolations that play in this process (thread and asynchronous inline)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator

from envmesh.errors import Refusal
from envmesh_host.isolation.job import CLOSE, cancelled
from envmesh_host.isolation.runner import Job
from envmesh_host.player import Player
from envmesh_host.served import Row

__all__ = ["LocalBreath", "LocalSeat", "OpenJobs"]


class LocalSeat:
    """An episode's place. ``refusal`` says why it is lost; ``busy`` is the command a thread has, answered or not, and
    ``given_up`` says that nobody waits for that thread; ``replay`` is the rest of a journal that is played again;
    ``held`` says that its commands are in doubt (``breath.py``)."""

    __slots__ = ("busy", "closing", "given_up", "held", "job", "player", "refusal", "replay")

    def __init__(self) -> None:
        self.job: Job | None = None
        self.closing: Job | None = None
        self.player: Player | None = None
        self.busy: Job | None = None
        self.given_up = False
        self.held = False
        self.refusal: Refusal | None = None
        self.replay: Iterator[Row | None] | None = None


class LocalBreath:
    """A runner's part of ``breath.py``, where it plays in this process."""

    ends_code = False
    _until = math.inf

    def breathe(self, until: float) -> None:
        """Commands may begin up to this moment."""
        self._until = until

    def hold(self, seat: LocalSeat, held: bool) -> None:
        """Whether commands of this episode are in doubt, and shall not begin."""
        seat.held = held

    def _may_begin(self, seat: LocalSeat) -> bool:
        return time.monotonic() <= self._until and not seat.held


class OpenJobs:
    """Sees to it that each job is answered exactly once, and never from within ``submit``."""

    def __init__(self) -> None:
        self.jobs: set[Job] = set()
        self.stopping = False

    def admit(self, job: Job, full: Refusal | None = None) -> bool:
        """Whether a job is to be carried out; one that is not will be answered. ``full`` says why an episode may not
        begin just now."""
        seat: LocalSeat = job.seat
        refusal = None
        if self.stopping:
            refusal = Refusal("the host stopped", reason="PREEMPTED")
        elif job.kind == CLOSE:
            running = seat.job
            if running is not None:
                seat.job = None
                self._soon(running, cancelled())
            seat.closing = job
        elif seat.job is not None or seat.closing is not None:
            refusal = Refusal("the episode has another command under way", reason="INTERNAL")
        elif seat.refusal is not None or full is not None:
            refusal = seat.refusal or full
        else:
            seat.job = job
        self.jobs.add(job)
        if refusal is not None:
            self._soon(job, refusal)
        return refusal is None

    def answer(self, job: Job | None, result: Row | Refusal, seconds: float) -> None:
        """Answer a job; one that was answered before is let be."""
        if job is None or job not in self.jobs:
            return
        self.jobs.discard(job)
        seat: LocalSeat = job.seat
        if seat.job is job:
            seat.job = None
        elif seat.closing is job:
            seat.closing = None
        job.running_seconds = seconds
        job.done(job, result)

    def refuse_all(self, refusal: Refusal) -> None:
        """Answer whatever is open."""
        for job in list(self.jobs):
            self.answer(job, refusal, 0.0)

    def _soon(self, job: Job, refusal: Refusal) -> None:
        asyncio.get_running_loop().call_soon(self.answer, job, refusal, 0.0)
