"""The environments of the chaos run: every recovery class, long enough that accidents meet them in the middle."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import envmesh
from tests.environments.contract import WHOLE_NUMBER
from tests.environments.recoverable import Paying, Replayed, ReplayedInWorker, Saved, Walk

__all__ = ["Pair", "Paying", "Replayed", "ReplayedInWorker", "Saved", "Slow"]


@envmesh.environment(recovery="replay", isolation="inline")
class Slow(Walk):
    """Takes its time over each step, as a service or a model would."""

    def __init__(self, length: int = 60, wait: float = 0.2):
        super().__init__(length)
        self.wait = wait

    async def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed)

    async def step(self, action: Any) -> Any:
        await asyncio.sleep(self.wait)
        return super().step(action)


@envmesh.environment(recovery="replay", isolation="inline", agents=("left", "right"))
class Pair:
    """Two agents that act together; each observes the walk, moved by both."""

    action_space: ClassVar[dict[str, Any]] = {"left": WHOLE_NUMBER, "right": WHOLE_NUMBER}
    acting: tuple[str, ...]

    def __init__(self, length: int = 60):
        self.walk = Walk(length)

    def reset(self, *, seed: int | None = None) -> Any:
        self.acting = ("left", "right")
        observation, info = self.walk.reset(seed=seed)
        return {"left": observation, "right": -observation}, info

    def step(self, actions: Any) -> Any:
        action = (int(actions["left"]) + 2 * int(actions["right"])) % 5
        observation, reward, done, _, info = self.walk.step(action)
        if done:
            self.acting = ()
        ended = {"left": done, "right": done}
        return (
            {"left": observation, "right": -observation},
            {"left": reward, "right": -reward},
            ended,
            {},
            info,
        )
