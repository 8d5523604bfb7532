"""Steps and resets that may have killed what served them: on one host, they run one at a time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envmesh.rebuilding import Rebuild

__all__ = ["Suspects"]


class Suspects:
    """Episodes on one host whose next step, or reset, is suspected: they do it one at a time, so that a death there has
    one suspect."""

    def __init__(self) -> None:
        self._waiting: deque[Rebuild] = deque()
        self._alone: Rebuild | None = None

    def add(self, rebuild: Rebuild) -> None:
        """What it does next shall run with no other suspect's beside it."""
        self._waiting.append(rebuild)
        self._next()

    def left(self, rebuild: Rebuild) -> None:
        """Its turn is over, or not wanted any more."""
        if self._alone is rebuild:
            self._alone = None
            self._next()
        elif rebuild in self._waiting:
            self._waiting.remove(rebuild)

    def _next(self) -> None:
        while self._alone is None and self._waiting:
            rebuild = self._waiting.popleft()
            if not rebuild.over and rebuild.stands:
                self._alone = rebuild
                rebuild.step_alone()
