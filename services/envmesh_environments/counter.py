"""``envmesh_environments.counter:Counter``: every optional method an environment can have, in a few lines each.

The class is STATE: ``checkpoint`` says all that the future depends on, the generator's state included, so that an
episode goes on from it as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import envmesh.env
from envmesh.env import RewardResult, Task

_MODULUS = 2**63


@envmesh.env.environment(
    recovery="state",
    isolation="inline",
    options=("start",),
    action_space={"type": "string", "enum": ["up", "down"]},
    observation_space={"type": "integer"},
    reward_components=("closeness", "thrift"),
)
class Counter:
    """Counts up or down by one to three, as chance will have it, towards a target within twenty steps."""

    steps = 20

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Begin at ``options["start"]``, with the task's target, or 10."""
        given = options or {}
        self.chance = (seed or 0) % _MODULUS
        self.count = int(given.get("start", 0))
        self.target = int(given["task"].metadata["target"]) if "task" in given else 10
        self.used = 0
        return self.count, {"target": self.target}

    def step(self, action: str) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Go up or down; the reward is 1 when the target is met."""
        if action not in ("up", "down"):
            raise ValueError(f"an action is 'up' or 'down', not {action!r}")
        stride = 1 + self._draw() % 3
        self.count += stride if action == "up" else -stride
        self.used += 1
        met = self.count == self.target
        return self.count, float(met), met, self.used == self.steps and not met, {}

    def reward(self) -> RewardResult:
        """How close the count is, and how few steps it took."""
        closeness = 1.0 / (1 + abs(self.target - self.count))
        thrift = 1.0 - self.used / self.steps
        return RewardResult(value=closeness, components={"closeness": closeness, "thrift": thrift})

    def checkpoint(self) -> dict[str, int]:
        """All that the future depends on."""
        return {"chance": self.chance, "count": self.count, "target": self.target, "used": self.used}

    def restore(self, checkpoint: Mapping[str, int]) -> None:
        """Go on from a checkpoint."""
        self.chance, self.count = checkpoint["chance"], checkpoint["count"]
        self.target, self.used = checkpoint["target"], checkpoint["used"]

    def reseed(self, seed: int) -> None:
        """Change the randomness of the future."""
        self.chance = seed % _MODULUS

    @staticmethod
    def tasks() -> Iterator[Task]:
        """Five targets."""
        for target in (5, 10, 15, 20, 25):
            yield Task(id=f"to-{target}", prompt=f"Count to {target}.", metadata={"target": target})

    def _draw(self) -> int:
        self.chance = (self.chance * 6364136223846793005 + 1442695040888963407) % _MODULUS
        return self.chance >> 33
