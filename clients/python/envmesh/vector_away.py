"""Episodes of a vector that have no copy for now (pure)."""

from __future__ import annotations

from envmesh.slot import Slot

__all__ = ["Away"]


class Away:
    """Which episodes are without a copy, each with the slot that stands in, and for how long there were any: a caller's
    patience stands still meanwhile. Times are in seconds."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self._since = 0.0
        self._before = 0.0

    def __bool__(self) -> bool:
        return bool(self._slots)

    def slot_of(self, number: int) -> Slot | None:
        """What stands in for the slot of an episode; None where it is not away."""
        return self._slots.get(number)

    def went(self, number: int, slot: Slot, now: float) -> None:
        """An episode has no copy from now on."""
        if not self._slots:
            self._since = now
        self._slots[number] = slot

    def came_back(self, number: int, now: float) -> bool:
        """It has one again, or is not wanted any more. Returns whether it was away."""
        if self._slots.pop(number, None) is None:
            return False
        if not self._slots:
            self._before += now - self._since
        return True

    def seconds(self, now: float) -> float:
        """For how long, all in all, some episode was away."""
        return self._before + (now - self._since if self._slots else 0.0)
