"""Environments of every recovery class, for tests of what happens when hosts, workers and links are lost."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces as g

import envmesh

LENGTH = 60


class Walk:
    """Walks by its own dice and the action; observes where it is, in ``size`` bytes."""

    observation_space = g.Box(-1e9, 1e9, (2,), np.float64)
    action_space = g.Discrete(5)

    def __init__(self, length: int = LENGTH, pause: float = 0.0):
        self.length = length
        self.pause = pause

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.dice = random.Random(seed)
        self.steps, self.place = 0, self.dice.random()
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        if self.pause:
            time.sleep(self.pause)
        self.steps += 1
        self.place = self.place * 1.01 + self.dice.random() * (int(action) + 1)
        return self._observe(), float(self.place % 1.0), self.steps >= self.length, False, {}

    def _observe(self) -> Any:
        return np.array([self.steps, self.place], np.float64)


@envmesh.environment(recovery="replay", isolation="inline")
class Replayed(Walk):
    """Rebuilt from its actions."""


@envmesh.environment(recovery="replay", isolation="inline")
class Ungradable(Walk):
    """The same; whoever would grade it is away."""

    def reward(self) -> float:
        raise RuntimeError("the judge is away")


@envmesh.environment(recovery="replay", isolation="process", episodes_per_worker=256)
class ReplayedInWorker(Walk):
    """The same, in worker processes."""


@envmesh.environment(recovery="replay", isolation="thread", limits={"step_seconds": 0.3})
class HeldInThread(Walk):
    """The same, in threads; action 5 holds its thread for good."""

    action_space = g.Discrete(6)

    def step(self, action: Any) -> Any:
        if int(action) == 5:
            time.sleep(3600)
        return super().step(action)


@envmesh.environment(recovery="state", isolation="inline")
class Saved(Walk):
    """Rebuilt from its checkpoint: what it has forgotten of its dice, no replay from the start would bring back."""

    def __init__(self, length: int = LENGTH, pause: float = 0.0, ballast: int = 0):
        super().__init__(length, pause)
        self.ballast = ballast

    def checkpoint(self) -> Any:
        version, state, following = self.dice.getstate()
        dice = {"version": version, "state": list(state), "following": following}
        return {"steps": self.steps, "place": self.place, "dice": dice, "ballast": b"b" * self.ballast}

    def restore(self, saved: Any) -> None:
        dice = saved["dice"]
        self.dice = random.Random()
        self.dice.setstate((dice["version"], tuple(dice["state"]), dice["following"]))
        self.steps, self.place = saved["steps"], saved["place"]

    def reseed(self, seed: int) -> None:
        self.dice.seed(seed)


@envmesh.environment(recovery="state", isolation="process", episodes_per_worker=256)
class SavedInWorker(Saved):
    """The same, in worker processes."""


@envmesh.environment(recovery="state", isolation="thread")
class SavedInThread(Saved):
    """The same, in threads."""


@envmesh.environment(recovery="state", isolation="inline")
class SavedAside(Saved):
    """The same as coroutines, which let others in between."""

    async def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed, options=options)

    async def step(self, action: Any) -> Any:
        await asyncio.sleep(0)
        return super().step(action)

    async def checkpoint(self) -> Any:
        await asyncio.sleep(0)
        return super().checkpoint()

    async def restore(self, saved: Any) -> None:
        await asyncio.sleep(0)
        super().restore(saved)


@envmesh.environment(recovery="state", isolation="thread")
class SavedAsideInThread(SavedAside):
    """Coroutines in a thread's loop."""


@envmesh.environment(recovery="state", isolation="process", episodes_per_worker=256)
class SavedAsideInWorker(SavedAside):
    """Coroutines in worker processes."""


@envmesh.environment(recovery="state", isolation="inline", checkpoint_steps=3)
class SavedOften(Saved):
    """Asks to be saved every three steps."""


@envmesh.environment(recovery="state", isolation="inline")
class Unsavable(Saved):
    """Cannot be saved any more once it was told so, by action 4."""

    def step(self, action: Any) -> Any:
        self.spoilt = int(action) == 4
        return super().step(action)

    def checkpoint(self) -> Any:
        if self.spoilt:
            raise OSError("the disk is full")
        return super().checkpoint()


@envmesh.environment(recovery="state", isolation="inline", deterministic=False)
class Chancy(Saved):
    """Whose steps cannot be repeated: its dice are nobody's, so each outcome comes with a checkpoint."""

    def step(self, action: Any) -> Any:
        self.dice.seed(os.urandom(8))
        return super().step(action)


@envmesh.environment(recovery="state", isolation="inline", deterministic=False)
class ChancyAndLarge(Chancy):
    """Observes so much that its checkpoints, which are small, come before its outcomes."""

    observation_space = g.Box(-1e9, 1e9, (40_000,), np.float64)

    def _observe(self) -> Any:
        return np.concatenate([super()._observe(), np.zeros(39_998)])


@envmesh.environment(recovery="none", isolation="inline")
class Paying(Walk):
    """Acts on the world: every step appends a line to the file that ENVMESH_TEST_LEDGER names."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seed = seed
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        with Path(os.environ["ENVMESH_TEST_LEDGER"]).open("a") as ledger:
            ledger.write(f"{self.seed} {self.steps + 1}\n")
        return super().step(action)


@envmesh.environment(recovery="none", isolation="thread")
class PayingInThread(Paying):
    """The same, in threads."""


@envmesh.environment(recovery="none", isolation="process", episodes_per_worker=8)
class PayingInWorker(Paying):
    """The same, several in a worker process."""


@envmesh.environment(recovery="replay", isolation="inline")
class Poisonous(Walk):
    """At its tenth step, seed 13 ends the process that serves it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seed = seed
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        if self.seed == 13 and self.steps == 9:
            os.abort()
        return super().step(action)


@envmesh.environment(recovery="replay", isolation="process", episodes_per_worker=256)
class PoisonousInWorker(Poisonous):
    """The same, in worker processes."""
