"""How worker processes leave that are no longer needed: each is asked to end, and is ended where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from envmesh_host.isolation.pool import WorkerLink

__all__ = ["Leaving"]

LEAVING_GRACE_SECONDS = 10.0
"""How long a worker that is no longer needed may take to close its environments."""


class Leaving:
    """Of one pool: ``workers`` may be given episodes, ``processes`` have not ended yet, and ``kill`` ends one by its
    number. A worker that has had no episode for ``idle_seconds`` leaves, save one that is kept ready."""

    def __init__(
        self,
        workers: dict[int, WorkerLink],
        processes: dict[int, WorkerLink],
        kill: Callable[[int], None],
        idle_seconds: float,
    ):
        self._workers = workers
        self._processes = processes
        self._kill = kill
        self._idle_seconds = idle_seconds
        self._timer: asyncio.TimerHandle | None = None

    def dismiss(self, worker: WorkerLink) -> None:
        """Let a worker without episodes go."""
        self._workers.pop(worker.number, None)
        worker.finish()
        asyncio.get_running_loop().call_later(LEAVING_GRACE_SECONDS, self._end, worker.number)

    def wake(self) -> None:
        """A worker is empty now."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._look)

    def cancel(self) -> None:
        """Let none go any more for being idle."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        before = asyncio.get_running_loop().time() - self._idle_seconds + 0.001
        empty = [worker for worker in self._workers.values() if not worker.episodes]
        spare = 0 if len(empty) < len(self._workers) else 1
        for worker in empty[spare:]:
            if worker.empty_since <= before:
                self.dismiss(worker)
        if len(empty) > spare and any(worker.empty_since > before for worker in empty):
            self.wake()

    def _end(self, number: int) -> None:
        if number in self._processes:
            self._kill(number)
