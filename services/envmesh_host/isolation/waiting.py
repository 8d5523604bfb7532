"""The resets and resumptions that wait for a worker to begin in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from envmesh.errors import Refusal
from envmesh_host.isolation.pool import WorkerLink
from envmesh_host.isolation.runner import Job

__all__ = ["Waiting"]


class Waiting:
    """Two queues, each in turn: of episodes that may share a worker, and of those that are to be apart. One whose seat
    has let go of its job waits no more."""

    def __init__(self) -> None:
        self._queues: tuple[deque[Job], deque[Job]] = (deque(), deque())

    def add(self, job: Job) -> None:
        """The last of its queue."""
        self._queues[job.seat.apart].append(job)

    def placed(self, choose: Callable[[bool], WorkerLink | None]) -> Iterator[tuple[Job, WorkerLink]]:
        """Those that have their turn now, and the worker that ``choose(apart)`` has for each; it is to be seated there
        before the next is asked for."""
        for queue in self._queues:
            while queue:
                job = queue[0]
                if job.seat.job is job:
                    worker = choose(job.seat.apart)
                    if worker is None:
                        break
                    yield job, worker
                queue.popleft()

    def refuse(self, refusal: Refusal) -> None:
        """Answer all of them, soon."""
        soon = asyncio.get_running_loop().call_soon
        for queue in self._queues:
            for job in queue:
                if job.seat.job is job:
                    job.seat.job = None
                    soon(job.done, job, refusal)
            queue.clear()
