"""Inline isolation of an asynchronous environment: its coroutines are tasks of the host's own event loop.

(Synchronous inline environments need no runner: the stream's reader steps them itself.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.concurrent import AsyncEpisodes, Spawn
from envmesh_host.isolation.job import CLOSE
from envmesh_host.isolation.open_jobs import LocalBreath, LocalSeat, OpenJobs
from envmesh_host.isolation.runner import Job
from envmesh_host.served import Row, Served

__all__ = ["InlineRunner"]


class InlineRunner(LocalBreath):
    """Plays an asynchronous environment where it is. ``spawn`` begins a named task in the process's task group."""

    def __init__(self, served: Served, *, spawn: Spawn):
        self._served = served
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn = spawn
        self._open = OpenJobs()
        self._episodes = AsyncEpisodes(served, self._begin, self._answer, may_begin=self._may_begin)

    async def start(self) -> pb.EnvironmentInfo:
        """Say what is served.

        Raises:
            Refusal: UNSUPPORTED, it declares ``global_random``: coroutines would draw from each other's randomness.
        """
        if self._served.definition.declaration.global_random:
            message = "uses the global random generators; serve it with process isolation"
            raise Refusal(f"{self._served.definition.key} {message}", reason="UNSUPPORTED")
        return self._served.info

    def seat(self, *, apart: bool = False) -> LocalSeat:
        """Room for a new episode; ``apart`` has no meaning here."""
        return LocalSeat()

    def submit(self, job: Job) -> None:
        """Begin a command as a task of its own."""
        if self._open.admit(job):
            self._episodes.submit(job.seat, job.kind, job.index, job.payload, job.limit_seconds)

    @property
    def stuck(self) -> int:
        """Commands that were cancelled, answered, and still run."""
        return self._episodes.stuck

    async def stop(self, grace_seconds: float) -> None:
        """Close every episode; cancel what is not done within the grace."""
        self._open.stopping = True
        self._episodes.close_all(grace_seconds)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
        self._open.refuse_all(Refusal("the host stopped", reason="PREEMPTED"))

    def _begin(self, work: Coroutine[Any, Any, None], /, *, name: str) -> asyncio.Task[None]:
        task = self._spawn(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _answer(self, seat: LocalSeat, kind: int, result: Row | Refusal, seconds: float) -> None:
        self._open.answer(seat.closing if kind == CLOSE else seat.job, result, seconds)
