"""An environment whose versions observe different things."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces as g

import envmesh


@envmesh.environment(recovery="replay", isolation="inline", action_space=g.Discrete(2))
class Rows:
    """Observes so many of the number that it has counted to."""

    def __init__(self, width: int) -> None:
        self.observation_space = g.Box(0, 1000, (width,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.count = 0
        return self.observed(), {}

    def step(self, action: int) -> Any:
        self.count += 1
        return self.observed(), 1.0, False, False, {}

    def observed(self) -> Any:
        return np.full(self.observation_space.shape, self.count, np.float32)


def tasks() -> list[envmesh.Task]:
    """What its episodes can be about."""
    return [envmesh.Task(id="count")]
