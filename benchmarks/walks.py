"""One walk in every recovery class, for ``benchmarks.recovery``; it observes its seed, its step and where it is."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

import envmesh

__all__ = ["LENGTH", "None_", "Replay", "State"]

LENGTH = 300


class Walk:
    """Walks by its own dice and the action, ``LENGTH`` steps long; carries ``ballast`` bytes in its checkpoint."""

    observation_space: ClassVar[Any] = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space: ClassVar[Any] = spaces.Discrete(5)

    def __init__(self, ballast: int = 0) -> None:
        self.ballast = b"b" * ballast

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin."""
        self.seed, self.steps = seed or 0, 0
        self.dice = random.Random(seed)
        self.place = self.dice.random()
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        """Move."""
        self.steps += 1
        self.place = self.place * 1.01 + self.dice.random() * (int(action) + 1)
        return self._observe(), self.place % 1.0, self.steps == LENGTH, False, {}

    def _observe(self) -> Any:
        return np.array([self.seed, self.steps, self.place])


@envmesh.environment(recovery="replay", isolation="inline")
class Replay(Walk):
    """Rebuilt from its seed and actions."""


@envmesh.environment(recovery="state", isolation="inline")
class State(Walk):
    """Rebuilt from its last checkpoint and the actions since."""

    def checkpoint(self) -> Any:
        """All of it: the dice are 625 numbers."""
        version, state, following = self.dice.getstate()
        dice = np.array(state, np.uint32)
        return {"seed": self.seed, "steps": self.steps, "place": self.place, "version": version,
                "dice": dice, "following": following, "ballast": self.ballast}  # fmt: skip

    def restore(self, saved: Any) -> None:
        """As it was."""
        self.seed, self.steps, self.place = saved["seed"], saved["steps"], saved["place"]
        self.ballast = saved["ballast"]
        self.dice = random.Random()
        self.dice.setstate((saved["version"], tuple(saved["dice"].tolist()), saved["following"]))


@envmesh.environment(recovery="none", isolation="inline")
class None_(Walk):  # noqa: N801 - the class it has
    """Not rebuilt."""
