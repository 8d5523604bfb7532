"""What is played in the simulation: walks that depend on all that was done, by recovery class."""

from __future__ import annotations

from collections import Counter
from typing import Any

import envmesh
from envmesh.values import encode

__all__ = ["ACTS", "LENGTH", "Paying", "Replayed", "Saved", "encode"]

ACTS: Counter[tuple[int, int]] = Counter()
"""How often each step (seed, index) of ``Paying`` was done, in the present history."""

LENGTH = 8


class Played:
    """Observes a number that every action has a part in."""

    def reset(self, *, seed: int | None = None) -> Any:
        self.seed, self.steps, self.place = seed or 0, 0, (seed or 0) * 7919 % 10007
        return self.place, {}

    def step(self, action: int) -> Any:
        self.steps += 1
        self.place = (self.place * 31 + action * 17 + self.steps) % 10007
        return self.place, float(self.place % 10), self.steps >= LENGTH, False, {}


@envmesh.environment(recovery="replay", isolation="inline")
class Replayed(Played):
    """Rebuilt from its actions."""


@envmesh.environment(recovery="state", isolation="inline")
class Saved(Played):
    """Rebuilt from its checkpoints."""

    def checkpoint(self) -> Any:
        return [self.seed, self.steps, self.place]

    def restore(self, saved: Any) -> None:
        self.seed, self.steps, self.place = saved


@envmesh.environment(recovery="none", isolation="inline")
class Paying(Played):
    """Acts on the world."""

    def step(self, action: int) -> Any:
        ACTS[self.seed, self.steps + 1] += 1
        return super().step(action)
