"""Watches the running times of worker processes from outside: one timer while anything runs, none a command."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from envmesh_host.isolation.pool import Seat, WorkerLink

__all__ = ["LimitWatch"]

ASYNC_GRACE_SECONDS = 2.0
"""An asynchronous worker cancels an overrunning command itself; only if its loop is stuck is it ended from here."""

ABANDONED_GRACE_SECONDS = 5.0
"""How long a command may go on after its episode was closed, in a worker that has no other episode."""

LOOKS_A_LIMIT = 8
"""An overrun is noticed within this fraction of the shortest limit, at least twice a second."""

SHORTEST_SECONDS, LONGEST_SECONDS = 0.08, 4.0


class LimitWatch:
    """Reads what the workers note of themselves, and tells ``overran`` (worker, seat, since when) of each overrun."""

    def __init__(
        self,
        workers: Callable[[], Iterable[WorkerLink]],
        overran: Callable[[WorkerLink, Seat, float], None],
        *,
        shared: bool,
    ):
        self._workers = workers
        self._overran = overran
        self._shared = shared
        self._shortest = LONGEST_SECONDS
        self._timer: asyncio.TimerHandle | None = None

    def wake(self, limit_seconds: float) -> None:
        """Something with this limit runs now."""
        if limit_seconds < self._shortest:
            self._shortest = max(limit_seconds, SHORTEST_SECONDS)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._shortest / LOOKS_A_LIMIT, self._look)

    def cancel(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        busy = [worker for worker in self._workers() if worker.busy]
        for worker in busy:
            found = self._overrun_of(worker, now)
            if found is not None:
                self._overran(worker, *found)
        if busy:
            self.wake(self._shortest)

    def _overrun_of(self, worker: WorkerLink, now: float) -> tuple[Seat, float] | None:
        grace = ASYNC_GRACE_SECONDS if worker.asynchronous else 0.0
        for handle, since in enumerate(worker.record.since.tolist()):
            seat = worker.seats[handle] if since > 0 and handle else None
            if seat is None or (seat.job is None and seat.closing is None):
                continue
            if now - since > seat.limit_seconds + grace or self._abandoned_too_long(seat, now):
                return seat, since
        return None

    def _abandoned_too_long(self, seat: Seat, now: float) -> bool:
        abandoned = not self._shared and seat.closing is not None and seat.abandoned_at > 0
        return abandoned and now - seat.abandoned_at > ABANDONED_GRACE_SECONDS
