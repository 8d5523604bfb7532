"""Environments that take their time, and one whose errors cannot be said in UTF-8. They declare next to nothing."""

from __future__ import annotations

import time
from typing import Any

import envmesh


class SlowToBegin:
    """Its reset takes 0.4 s where the seed is odd."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        time.sleep(0.4 if seed and seed % 2 else 0.0)
        self.steps = 0
        return f"begun {seed}", {}

    def step(self, action: Any) -> Any:
        """``slow`` takes half a second."""
        time.sleep(0.5 if action == "slow" else 0.0)
        self.steps += 1
        return f"{action} {self.steps}", 1.0, self.steps == 8, False, {}


@envmesh.environment(isolation="thread", recovery="replay")
class SlowInThread(SlowToBegin):
    """The same in threads."""


@envmesh.environment(isolation="inline")
class Unsayable:
    """Raises about a file whose name is no UTF-8, where it is told to."""

    def reset(self, *, seed: int | None = None) -> Any:
        return "ready", {}

    def step(self, action: str) -> Any:
        if action == "raise":
            raise FileNotFoundError("caf\udce9.txt")
        return action, 0.0, False, False, {}
