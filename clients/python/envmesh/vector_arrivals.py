"""What has come for a vector and nobody has received yet, and who waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import numpy as np

from envmesh.errors import EnvmeshError, InvalidRequest
from envmesh.tensors import Array
from envmesh.vector_batch import Rows

__all__ = ["Arrivals"]


class Arrivals:
    """``count`` outcomes, and ``errors`` that are no outcome, each with the number of its episode."""

    def __init__(self) -> None:
        self.count = 0
        self.errors: deque[tuple[int, EnvmeshError]] = deque()
        self._rows: list[Rows] = []
        self._waiter: asyncio.Future[None] | None = None
        self._enough: Callable[[], bool] = bool
        self._timer: asyncio.TimerHandle

    def add(self, rows: Rows) -> None:
        """Outcomes came."""
        self._rows.append(rows)
        self.count += len(rows)
        if self._waiter is not None and self._enough():
            self._wake(None)

    def refuse(self, number: int, error: EnvmeshError) -> None:
        """What episode ``number`` was told was refused."""
        self.errors.append((number, error))
        if self._waiter is not None and self._enough():
            self._wake(None)

    def fail(self, error: EnvmeshError) -> None:
        """Whoever waits need not wait any longer."""
        self._wake(error)

    def take(self) -> Rows:
        """All that is there, in the order in which it came."""
        rows, self._rows, self.count = self._rows, [], 0
        return Rows.joined(rows)

    def take_errors(self, numbers: Array) -> list[EnvmeshError]:
        """The errors of these episodes."""
        mine = set(numbers.tolist())
        taken = [error for number, error in self.errors if number in mine]
        self.errors = deque(each for each in self.errors if each[0] not in mine)
        return taken

    def drop(self, numbers: Array) -> None:
        """Nobody wants any more what came for these episodes."""
        if self.errors:
            self.take_errors(numbers)
        if self.count:
            rows = self.take()
            self.put_back(rows.chosen(np.flatnonzero(~np.isin(rows.ids, numbers))))

    def put_back(self, rows: Rows) -> None:
        """Some of what was taken is for somebody else."""
        if len(rows):
            self._rows.insert(0, rows)
            self.count += len(rows)

    async def wait(
        self, enough: Callable[[], bool], timeout: float, late: Callable[[], EnvmeshError | float]
    ) -> None:
        """Wait until there is enough; that is asked whenever something came. After ``timeout`` seconds, ``late`` says
        what is wrong, or for how many more seconds to wait.

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

        def look() -> None:
            verdict = late()
            if isinstance(verdict, EnvmeshError):
                self._wake(verdict)
            else:
                self._timer = loop.call_later(verdict, look)

        self._timer = loop.call_later(timeout, look)
        try:
            await waiter
        finally:
            self._timer.cancel()
            self._waiter = None

    def _wake(self, error: EnvmeshError | None) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
