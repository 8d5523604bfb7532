"""Environments that Gymnasium's interface allows and few authors write: spaces of their own, zeros below zero, infos
that are none, observations of one of several kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces as g

import envmesh


class Even(g.Discrete):
    """The even ones of the first so many integers."""

    def contains(self, x: Any) -> bool:
        return super().contains(x) and int(x) % 2 == 0


class Particular:
    """Says back what it is given; its reward is a zero below zero."""

    observation_space: Any = g.Discrete(10)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.observed(0), {}

    def step(self, action: Any) -> Any:
        return self.observed(action), -0.0, False, False, self.info(action)

    def observed(self, action: Any) -> Any:
        return int(action)

    def info(self, action: Any) -> Any:
        return {}


class OwnSpace(Particular):
    """Its space is made with each instance, where no declaration sees it. In a worker process each."""

    def __init__(self) -> None:
        self.action_space = Even(10)


@envmesh.environment(agents=("a", "b"))
class OwnSpaces:
    """The same, for one of two agents."""

    def __init__(self) -> None:
        self.action_space = g.Dict({"a": Even(10), "b": g.Discrete(10)})
        self.acting = ("a", "b")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return {"a": 0, "b": 0}, {}

    def step(self, actions: Any) -> Any:
        return actions, {}, {}, {}, {}


@envmesh.environment(recovery="replay", isolation="inline")
class Zeros(Particular):
    """Inline, and with a plain space."""

    action_space = g.Discrete(10)


@envmesh.environment(recovery="replay", isolation="inline")
class InfoOfMany(Zeros):
    """Has a list for an info where the action is 7."""

    def info(self, action: Any) -> Any:
        return ["no", "map"] if action == 7 else {"action": int(action)}


@envmesh.environment(recovery="replay", isolation="inline")
class Pixels(Particular):
    """Takes pictures."""

    action_space = g.Box(0, 255, (200_000,), np.uint8)

    def observed(self, action: Any) -> Any:
        return 0


@envmesh.environment(recovery="replay", isolation="inline")
class EitherOr(Zeros):
    """Observes one of two kinds of things, and fails at 7."""

    observation_space = g.OneOf([g.Discrete(10), g.Box(0, 1, (2,), np.float32)])

    def observed(self, action: Any) -> Any:
        if action == 7:
            raise RuntimeError("unlucky")
        return 0, int(action)
