"""Steps that may have killed what served them: on one host, they run one at a time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envmesh.rebuilding import Rebuild

__all__ = ["Suspects"]


class Suspects:
    """Rebuilt episodes of one host whose next step is suspected, so that another death has one suspect."""

    def __init__(self) -> None:
        self._waiting: deque[Rebuild] = deque()
        self._alone: Rebuild | None = None

    def add(self, rebuild: Rebuild) -> None:
        """Its step shall run with no other suspect's beside it."""
        self._waiting.append(rebuild)
        self._next()

    def acquitted(self, rebuild: Rebuild) -> None:
        """It is not held back any more."""
        self._waiting = deque(each for each in self._waiting if each is not rebuild)

    def cleared(self, rebuild: Rebuild) -> None:
        """The step that ran alone is done."""
        if self._alone is rebuild:
            self._alone = None
            self._next()

    def _next(self) -> None:
        while self._alone is None and self._waiting:
            rebuild = self._waiting.popleft()
            if not rebuild.over and rebuild.stands:
                self._alone = rebuild
                rebuild.step_alone()
