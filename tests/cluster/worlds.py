"""The environment of the cluster tests: its trajectory is known before it is played, so that any fork would show."""

from __future__ import annotations

from typing import Any

from envmesh.env import environment

LENGTH = 30


@environment(isolation="inline", recovery="replay", version="1")
class Walk:
    """A walk of ``LENGTH`` steps, each a reward of 1; the observation is seed + step."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.at, self.seed = 0, seed or 0
        return self.seed, {}

    def step(self, action: int) -> Any:
        self.at += 1
        return self.seed + self.at, 1.0, self.at >= LENGTH, False, {}


@environment(isolation="inline", recovery="replay", version="2")
class Walk2(Walk):
    """The next version of it."""
