"""Environments that Gymnasium's interface allows and few authors write: spaces of their own, zeros below zero, infos
that are none, observations of one of several kinds."""

from __future__ import annotations

import itertools
import time
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


class Free(g.Discrete):
    """The squares of a board that nobody has taken."""

    def __init__(self, board: set[int]) -> None:
        super().__init__(9)
        self.board = board

    def contains(self, x: Any) -> bool:
        return super().contains(x) and int(x) not in self.board


class Board(Particular):
    """Its space says which moves are legal now, in this very episode."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.action_space = Free(self.taken)

    def step(self, action: Any) -> Any:
        self.taken.add(int(action))
        return int(action), 0.0, False, False, {}


class OwnSpaceInside(Particular):
    """The same, in a map, in a tuple, in a sequence and in one of two."""

    def __init__(self) -> None:
        inside = g.Tuple((g.Discrete(10), Even(10), g.Sequence(Even(10)), g.OneOf((g.Text(3), Even(10)))))
        self.action_space = g.Dict({"plain": g.Discrete(10), "inside": inside})

    def step(self, action: Any) -> Any:
        return action, 0.0, False, False, {}


class SpaceOfTheInstance(Particular):
    """Has spaces on the class, and others on each instance, as Gymnasium's environments may."""

    action_space: Any = g.Discrete(2)
    observation_space: Any = g.Discrete(2)

    def __init__(self, n: int = 10) -> None:
        self.action_space = self.observation_space = g.Discrete(n)


@envmesh.environment(action_space=g.Discrete(5))
class SpaceThatIsDeclared(SpaceOfTheInstance):
    """The same, and declares an action space besides."""


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


@envmesh.environment(recovery="replay", isolation="inline", agents=("a", "b"))
class InfosOfAgents:
    """Tells each agent how many infos there have been in this process: never the same twice."""

    told = itertools.count(1)
    acting = ("a", "b")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return {"a": 0, "b": 0}, self.infos()

    def step(self, actions: Any) -> Any:
        return actions, {"a": 1.0}, {}, {}, self.infos()

    def infos(self) -> Any:
        return {"a": {"told": next(self.told)}, "b": {}}


@envmesh.environment(recovery="state", isolation="inline", deterministic=False)
class SaysWhatMustBeEqual:
    """Observes its sum, and what time it is: never the same twice. Fails in its digest at 7, and has none at 8."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.sum = 0
        return self.observed(), {}

    def step(self, action: Any) -> Any:
        self.sum += action
        return self.observed(), 1.0, False, False, {}

    def observed(self) -> Any:
        return [self.sum, time.perf_counter_ns()]

    def digest(self, observation: Any) -> Any:
        if observation[0] == 7:
            raise RuntimeError("unlucky")
        return object() if observation[0] == 8 else observation[0]

    def checkpoint(self) -> Any:
        return self.sum

    def restore(self, checkpoint: Any) -> None:
        self.sum = checkpoint


@envmesh.environment(recovery="replay", isolation="inline")
class Mixed(Zeros):
    """Plays at once, and takes its time to grade and to close."""

    closed = 0

    async def reward(self) -> float:
        return 0.5

    async def close(self) -> None:
        self.closed += 1
