"""A thread with an event loop of its own, which plays the episodes of an asynchronous environment."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable

from envmesh import event_loop
from envmesh.errors import Refusal
from envmesh_host.isolation.concurrent import AsyncEpisodes
from envmesh_host.isolation.job import CLOSE
from envmesh_host.isolation.open_jobs import LocalSeat
from envmesh_host.isolation.runner import Job
from envmesh_host.served import Row, Served

__all__ = ["LoopThread"]

Finished = tuple[LocalSeat, bool, Row | Refusal, float]
"""Seat, whether it is the answer to CLOSE, result, running seconds."""


class LoopThread:
    """Begun by its construction. ``running`` says since when the code of each busy seat runs; ``wake`` is called, in
    this thread, when there are finished commands to be taken; ``may_begin`` is asked of each (``breath.py``)."""

    def __init__(self, served: Served, wake: Callable[[], None], may_begin: Callable[[LocalSeat], bool]):
        self._served = served
        self._wake = wake
        self._may_begin = may_begin
        self._commands: deque[Job | None] = deque()
        self._finished: deque[Finished] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last: asyncio.Event
        self._episodes: AsyncEpisodes
        self._left = False
        self.ended = False
        self.seats: set[LocalSeat] = set()
        self.running: dict[LocalSeat, float] = {}
        name = f"{served.definition.key} loop"
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    @property
    def stuck(self) -> int:
        """Commands that were cancelled, answered, and still run."""
        return self._episodes.stuck if self._loop is not None else 0

    def submit(self, job: Job | None) -> None:
        """Begin a command; None ends the loop when every episode is closed."""
        self._commands.append(job)
        if self._loop is not None and len(self._commands) == 1:
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                pass  # the loop has ended
        if job is not None:
            self.seats.add(job.seat)

    def leave(self) -> None:
        """Nobody waits for it any more: once its code returns it closes its episodes, plays nothing else, and ends."""
        self._left = True
        self.submit(None)

    def finished(self) -> list[Finished]:
        """The commands that are done; to be asked in the host's loop."""
        taken = []
        while self._finished:
            finished = self._finished.popleft()
            if finished[1]:
                self.seats.discard(finished[0])
            taken.append(finished)
        return taken

    def _run(self) -> None:
        try:
            event_loop.run(self._serve())
        finally:
            self.ended = True
            self._wake()

    async def _serve(self) -> None:
        self._last = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            spawn = functools.partial(tasks.create_task)
            self._episodes = AsyncEpisodes(
                self._served, spawn, self._answer, self._note, may_begin=self._may_begin
            )
            self._loop = asyncio.get_running_loop()
            self._take()
            await self._last.wait()
            self._episodes.close_all(self._served.definition.declaration.limits.reset_seconds)

    def _take(self) -> None:
        while self._commands:
            job = self._commands.popleft()
            if job is None:
                self._last.set()
                return
            if self._left:
                continue
            self._episodes.submit(job.seat, job.kind, job.index, job.payload, job.limit_seconds)

    def _note(self, seat: LocalSeat, since: float) -> None:
        if since:
            self.running[seat] = since
        else:
            self.running.pop(seat, None)

    def _answer(self, seat: LocalSeat, kind: int, result: Row | Refusal, seconds: float) -> None:
        self._finished.append((seat, kind == CLOSE, result, seconds))
        self._wake()
