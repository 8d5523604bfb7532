"""How this host's drains ended, for the broker to count: the host itself is gone before anybody scrapes it (pure)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from envmesh.v1 import fleet_pb2

__all__ = ["Drains", "EndedDrain"]

KEPT = 16
"""Drains that are remembered."""


@dataclass(frozen=True, slots=True)
class EndedDrain:
    """A drain that is over. ``number`` counts from 1; ``seconds`` are from its beginning until the host was empty, it
    was taken back, or its time was over."""

    number: int
    outcome: fleet_pb2.DrainOutcome.ValueType
    seconds: float


class Drains:
    """The drains of a host that are over, the last few."""

    def __init__(self) -> None:
        self.ended: deque[EndedDrain] = deque(maxlen=KEPT)

    def end(self, outcome: fleet_pb2.DrainOutcome.ValueType, seconds: float) -> None:
        """A drain is over."""
        number = self.ended[-1].number + 1 if self.ended else 1
        self.ended.append(EndedDrain(number, outcome, seconds))
