"""The order in which episodes are rebuilt on one host."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envmesh.rebuilding import Rebuild
    from envmesh.stream import HostConnection

__all__ = ["Lane"]

RESUMES_AT_ONCE = 64
RESUME_BYTES_AT_ONCE = 8 << 20
EXPLAIN_SECONDS = 1.0
"""For so long a suspected step waits to be acquitted before it runs alone."""


class Lane:
    """The order in which episodes are rebuilt on one host: so many at once, and suspected steps one by one."""

    def __init__(self, connection: HostConnection, now: Any):
        self._connection = connection
        self._now = now
        self._waiting: deque[Rebuild] = deque()
        self._out: set[Rebuild] = set()
        self._bytes = 0
        self._suspects: deque[tuple[float, Rebuild]] = deque()
        self._alone: Rebuild | None = None

    def enter(self, rebuild: Rebuild) -> None:
        """Rebuild this episode, in its turn."""
        self._waiting.append(rebuild)
        self._pump()

    def left(self, rebuild: Rebuild, size: int) -> None:
        """It has been answered, or is not wanted."""
        if rebuild in self._out:
            self._out.discard(rebuild)
            self._bytes -= size
            self._pump()

    def _pump(self) -> None:
        while self._waiting and len(self._out) < RESUMES_AT_ONCE and self._bytes < RESUME_BYTES_AT_ONCE:
            rebuild = self._waiting.popleft()
            if rebuild.over or rebuild.slot is None or rebuild.slot.connection is not self._connection:
                continue
            size = rebuild.begin()
            if size:
                self._out.add(rebuild)
                self._bytes += size

    def suspect(self, rebuild: Rebuild) -> None:
        """Its step shall run with no other suspect's beside it, unless it is acquitted meanwhile."""
        self._suspects.append((self._now() + EXPLAIN_SECONDS, rebuild))

    def acquitted(self, rebuild: Rebuild) -> None:
        """It is not held back any more."""
        self._suspects = deque(entry for entry in self._suspects if entry[1] is not rebuild)

    def cleared(self, rebuild: Rebuild) -> None:
        """The step that ran alone is done."""
        if self._alone is rebuild:
            self._alone = None
            self.release_suspects(self._now())

    def release_suspects(self, now: float) -> None:
        """Let the next suspected step run, where none does."""
        while self._alone is None and self._suspects and self._suspects[0][0] <= now:
            _, rebuild = self._suspects.popleft()
            if not rebuild.over and rebuild.stands:
                self._alone = rebuild
                rebuild.step_alone()
