"""Environments that the tests of clients need: one that remembers too much, one that falls, one that sticks, one that
speaks."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from gymnasium import spaces as g

import envmesh
from envmesh.env import Definition, RewardResult, Task, declaration_of


@envmesh.environment(recovery="replay", isolation="inline")
class Drifting:
    """Claims to be deterministic, and is not: from its third step on it counts the episodes of its process."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        Drifting.episodes += 1
        self.mine, self.steps = Drifting.episodes, 0
        return f"hello\nseed {seed}", {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps < 3:
            return f"heard {action}", 0.0, False, False, {}
        return f"one line\nepisode {self.mine}\nanother line", float(self.mine), True, False, {}


@envmesh.environment(recovery="replay", isolation="inline")
class Falls:
    """Counts up in an array; raises at the third step of odd seeds, ends at the fifth of even ones."""

    observation_space = g.Box(-1e6, 1e6, (2,), np.float32)
    action_space = g.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seed, self.steps = seed or 0, 0
        return np.array([self.seed, 0], np.float32), {"seed": self.seed}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.seed % 2 and self.steps == 3:
            raise RuntimeError("the floor gave way")
        return np.array([self.seed, self.steps], np.float32), float(action), self.steps == 5, False, {}


@envmesh.environment(isolation="inline")
class Sticks:
    """Waits for ever where it is told to."""

    async def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return "go on", {}

    async def step(self, action: Any) -> Any:
        if action == "stick":
            await asyncio.Event().wait()
        return str(action), 0.0, action == "end", False, {}


@envmesh.environment(recovery="replay", isolation="inline", options=("topic",))
class Talks:
    """A conversation of every kind of value, with tasks, options, infos and a grade."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        options = options or {}
        task = options.get("task")
        self.heard: list[Any] = []
        return {"topic": options.get("topic", "anything"), "task": task.prompt if task else None}, {"turn": 0}

    def step(self, action: Any) -> Any:
        self.heard.append(action)
        turn = len(self.heard)
        answers = [
            [{"role": "user", "content": "naïve “quotes”\n🎲"}, turn],
            envmesh.Json({"tool": "add", "arguments": [1, 2.5, None]}),
            envmesh.Blob(b"\x89PNG", "image/png"),
            np.arange(6, dtype=np.int16).reshape(2, 3),
            float("nan"),
        ]
        return answers[turn - 1], turn / 7, turn == len(answers), False, {"turn": turn}

    def reward(self) -> RewardResult:
        return RewardResult(value=0.5, components={"style": 0.25}, rationale="fine")


def talks() -> Definition:
    """``Talks`` with a list of tasks."""
    return Definition(
        target="tests.environments.for_clients:talks",
        name="talks",
        declaration=declaration_of(Talks),
        factory=Talks,
        tasks=lambda: [Task(id="a", prompt="begin")],
    )
