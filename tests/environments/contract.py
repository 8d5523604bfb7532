"""The environments that the compliance tests play. They are few and small, so that a host in any language can serve the
like: ``tests/compliance/README.md`` says in words what each of them does.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, ClassVar

from envmesh.env import RewardResult, Task, environment

WHOLE_NUMBER = {"type": "integer"}


class Adding:
    """Adds what it is given to a total that begins at the seed plus the option ``start``. 0 ends the episode, -1 cuts
    it off. The grade is the total; its component ``graded`` counts the gradings of this copy."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        given = options or {}
        self.graded = 0
        self.total = (
            (seed or 0) + given.get("start", 0) + (given["task"].metadata["start"] if "task" in given else 0)
        )
        return self.total, {"seeded": seed is not None}

    def step(self, action: int) -> Any:
        self.total += action
        return self.total, float(action), action == 0, action == -1, {}

    def reward(self) -> RewardResult:
        self.graded += 1
        return RewardResult(value=self.total, components={"graded": self.graded}, rationale="the total")

    @staticmethod
    def tasks() -> list[Task]:
        return [
            Task(id="hundred", split="train", prompt="Begin at 100.", metadata={"start": 100}),
            Task(id="thousand", split="train", metadata={"start": 1000}),
            Task(id="hundred", split="test", metadata={"start": 99}),
        ]


declared: dict[str, Any] = {
    "recovery": "replay",
    "options": ("start",),
    "action_space": WHOLE_NUMBER,
    "observation_space": WHOLE_NUMBER,
    "reward_components": ("graded",),
}


@environment(isolation="inline", **declared)
class Tally(Adding):
    """In the host's own loop."""


@environment(isolation="thread", **declared)
class TallyInThread(Adding):
    """In a thread."""


@environment(isolation="process", **declared)
class TallyInProcess(Adding):
    """In a worker process."""


@environment(isolation="inline", slots=2, **declared)
class Scarce(Adding):
    """On a host with two slots for it."""


@environment(isolation="inline", **{**declared, "recovery": "state"})
class Saved(Adding):
    """Can be checkpointed."""

    def checkpoint(self) -> dict[str, int]:
        return {"total": self.total}

    def restore(self, checkpoint: dict[str, int]) -> None:
        self.total, self.graded = checkpoint["total"], 0


@environment(isolation="inline", slots=256)
class Gate:
    """A step may wait for another episode's. ``wait X`` ends when an episode steps ``open X``; ``meet X`` ends when an
    episode waits at X. Class NONE: no seed, no option, no grade, no checkpoint."""

    waiting: ClassVar[dict[str, asyncio.Event]] = defaultdict(asyncio.Event)
    opened: ClassVar[dict[str, asyncio.Event]] = defaultdict(asyncio.Event)

    async def reset(self) -> Any:
        return "ready", {}

    async def step(self, action: str) -> Any:
        verb, _, name = action.partition(" ")
        if verb == "wait":
            self.waiting[name].set()
            await self.opened[name].wait()
        elif verb == "meet":
            await self.waiting[name].wait()
        elif verb == "open":
            self.opened[name].set()
        return action, 0.0, verb == "end", False, {}


@environment(recovery="replay", isolation="inline")
class Mirror:
    """Answers each action with itself; ``{"bytes": n}`` with n bytes."""

    def reset(self, *, seed: int | None = None) -> Any:
        return None, {}

    def step(self, action: Any) -> Any:
        if isinstance(action, dict) and "bytes" in action:
            action = bytes(action["bytes"])
        return action, 0.0, False, False, {}


@environment(isolation="inline")
class Faulty:
    """Does what an environment must not, when it is told to: raise, return garbage, or a reward that is no number."""

    def reset(self, *, seed: int | None = None) -> Any:
        if seed == 666:
            raise ValueError("an unlucky seed")
        return "ready", {}

    def step(self, action: str) -> Any:
        if action == "raise":
            raise LookupError("no such door")
        if action == "garbage":
            return "garbage"
        return action, float(action) if action in ("nan", "inf", "-inf") else 0.0, False, False, {}

    def reward(self) -> float:
        return float("nan")


@environment(isolation="inline", limits={"reset_seconds": 5.0, "step_seconds": 0.5})
class Slow:
    """Never ends the step ``stay``."""

    async def reset(self) -> Any:
        return "ready", {}

    async def step(self, action: str) -> Any:
        if action == "stay":
            await asyncio.Event().wait()
        return action, 0.0, False, False, {}


@environment(recovery="replay", isolation="inline", agents=("left", "right"))
class Pair:
    """Two agents that act together and see what the other did; one's own action is the reward. Two zeros end it."""

    action_space: ClassVar[dict[str, Any]] = {"left": WHOLE_NUMBER, "right": WHOLE_NUMBER}
    acting: tuple[str, ...]

    def reset(self, *, seed: int | None = None) -> Any:
        self.acting = ("left", "right")
        return {"left": 0, "right": 0}, {}

    def step(self, actions: dict[str, int]) -> Any:
        left, right = actions["left"], actions["right"]
        done = not left and not right
        if done:
            self.acting = ()
        ended = {"left": done, "right": done}
        return {"left": right, "right": left}, {"left": float(left), "right": float(right)}, ended, {}, {}
