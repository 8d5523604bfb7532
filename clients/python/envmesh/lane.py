"""The order in which episodes of one environment are rebuilt on one host."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envmesh.rebuilding import Rebuild
    from envmesh.stream import HostConnection

__all__ = ["Lane"]

RESUMES_AT_ONCE = 64
RESUME_BYTES_AT_ONCE = 8 << 20
EXPLAIN_SECONDS = 1.0
"""For so long a suspect waits to be acquitted before it is rebuilt apart from the others, which is dear."""


class Lane:
    """So many are rebuilt at once. Environments do not wait for each other: one may be slow, or short of workers."""

    def __init__(self, connection: HostConnection, now: Callable[[], float]):
        self._connection = connection
        self._now = now
        self._waiting: deque[Rebuild] = deque()
        self._held: dict[Rebuild, float] = {}
        self._out: set[Rebuild] = set()
        self._bytes = 0

    def enter(self, rebuild: Rebuild) -> None:
        """Rebuild this episode, in its turn."""
        if rebuild.awaits_explanation:
            self._held[rebuild] = self._now() + EXPLAIN_SECONDS
            return
        self._waiting.append(rebuild)
        self._pump()

    def release(self, now: float) -> None:
        """Who waited to be acquitted takes its turn, once that is decided or has taken too long."""
        due = [each for each, until in self._held.items() if until <= now or not each.awaits_explanation]
        for rebuild in due:
            del self._held[rebuild]
            self._waiting.append(rebuild)
        if due:
            self._pump()

    def left(self, rebuild: Rebuild, size: int) -> None:
        """It has been answered, or is not wanted."""
        if rebuild in self._out:
            self._out.discard(rebuild)
            self._bytes -= size
            self._pump()

    def dissolve(self) -> list[Rebuild]:
        """The host is lost. Returns those whose turn has not come."""
        unbegun = [rebuild for rebuild in (*self._waiting, *self._held) if self._is_mine(rebuild)]
        self._waiting.clear()
        self._held.clear()
        return unbegun

    def _is_mine(self, rebuild: Rebuild) -> bool:
        slot = rebuild.slot
        return not rebuild.over and slot is not None and slot.connection is self._connection

    def _pump(self) -> None:
        while self._waiting and len(self._out) < RESUMES_AT_ONCE and self._bytes < RESUME_BYTES_AT_ONCE:
            rebuild = self._waiting.popleft()
            if not self._is_mine(rebuild):
                continue
            size = rebuild.begin()
            if size:
                self._out.add(rebuild)
                self._bytes += size
