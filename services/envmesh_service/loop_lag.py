"""How late the event loop runs: the one number that says whether a process keeps up."""

from __future__ import annotations

import asyncio

from envmesh_service.clock import Clock, monotonic

__all__ = ["LoopLag"]


class LoopLag:
    """Measures the event loop's lag while ``run`` runs."""

    def __init__(self, clock: Clock = monotonic, *, interval: float = 0.1) -> None:
        self._clock = clock
        self._interval = interval
        self._due: float | None = None
        self._worst = 0.0
        self.samples: list[float] = []
        """Lags measured and not yet taken, in seconds; bounded."""

    def take(self) -> float:
        """The worst lag since the last call, in seconds; one that is still going on counts."""
        worst = self._worst
        if self._due is not None:
            worst = max(worst, self._clock() - self._due)
        self._worst = 0.0
        return worst

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self._due = self._clock() + self._interval
            await asyncio.sleep(self._interval)
            lag = max(0.0, self._clock() - self._due)
            self._worst = max(self._worst, lag)
            if len(self.samples) < 1_000:
                self.samples.append(lag)
