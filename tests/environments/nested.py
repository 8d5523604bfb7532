"""An environment whose observations are a dict of arrays, and which cannot be reset with one seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces as g

import envmesh


@envmesh.environment(recovery="replay", isolation="inline")
class Nested:
    """Observes its seed, twice; seed 13 brings bad luck."""

    observation_space = g.Dict({"place": g.Box(-1e6, 1e6, (2,), np.float32)})
    action_space = g.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed == 13:
            raise RuntimeError("unlucky")
        self.place = np.full(2, seed or 0, np.float32)
        return {"place": self.place}, {}

    def step(self, action: Any) -> Any:
        return {"place": self.place}, 1.0, False, False, {}
