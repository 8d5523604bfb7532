"""What has come for a vector and nobody has received yet, and who waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from envmesh.errors import EnvmeshError, InvalidRequest
from envmesh.vector_batch import Rows

__all__ = ["Arrivals"]


class Arrivals:
    """``count`` outcomes, and ``errors`` that are nobody's outcome."""

    def __init__(self) -> None:
        self.count = 0
        self.errors: deque[EnvmeshError] = deque()
        self._rows: list[Rows] = []
        self._waiter: asyncio.Future[None] | None = None
        self._enough: Callable[[], bool] = bool

    def add(self, rows: Rows) -> None:
        """Outcomes came."""
        self._rows.append(rows)
        self.count += len(rows)
        if self._waiter is not None and self._enough():
            self._wake(None)

    def refuse(self, error: EnvmeshError) -> None:
        """Something was refused."""
        self.errors.append(error)
        if self._waiter is not None and self._enough():
            self._wake(None)

    def fail(self, error: EnvmeshError) -> None:
        """Whoever waits need not wait any longer."""
        self._wake(error)

    def take(self) -> Rows:
        """All that is there, in the order in which it came."""
        rows, self._rows, self.count = self._rows, [], 0
        return Rows.joined(rows)

    def put_back(self, rows: Rows) -> None:
        """Some of what was taken is for somebody else."""
        if len(rows):
            self._rows.insert(0, rows)
            self.count += len(rows)

    async def wait(
        self, enough: Callable[[], bool], timeout: float, late: Callable[[float], EnvmeshError]
    ) -> None:
        """Wait until there is enough; that is asked whenever something came. ``late`` is told the ``timeout`` (seconds)
        and says what is wrong then.

        Raises:
            InvalidRequest: somebody waits already. EnvmeshError: what ``late`` or ``fail`` says.
        """
        if self._waiter is not None:
            raise InvalidRequest("somebody else is receiving already")
        if enough():
            return
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        self._enough = enough
        timer = loop.call_later(timeout, lambda: self._wake(late(timeout)))
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self, error: EnvmeshError | None) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
