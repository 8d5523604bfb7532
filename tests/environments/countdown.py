"""The ten-line environment of the README, one that fails, and policies for both."""

from __future__ import annotations

from typing import Any


class Countdown:
    def reset(self, *, seed=None, options=None):
        self.left = 3
        return "say go at zero", {}

    def step(self, action):
        self.left -= 1
        return str(self.left), float(action == "go"), self.left == 0, False, {}


class Falls:
    """Raises at the second step of every other seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seed, self.steps = seed or 0, 0
        return "", {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.seed % 2 and self.steps == 2:
            raise RuntimeError("the floor gave way")
        return "", 0.0, self.steps == 3, False, {}


def go(observation: str) -> str:
    return "go"


def stumble(observation: str) -> str:
    raise KeyError("no idea")


not_a_policy = 3
