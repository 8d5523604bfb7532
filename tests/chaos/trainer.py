"""The one trainer: episodes of every environment at once, and what is kept of each to compare it by."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from envmesh.mesh import Mesh
from envmesh.outcome import Resume, Trajectory
from envmesh.rollouts import Rollouts

__all__ = ["EPISODES", "Kept", "Played", "play"]

EPISODES = {"replayed": 300, "worker": 200, "saved": 200, "slow": 150, "pair": 100, "paying": 100}
"""How many are played at once: 1,050."""

SEEDS_APART = 1_000_000
POLL_SECONDS = 0.25
LONG_SECONDS = 10.0


def walk(observation: Any) -> int:
    """A policy: a pure function of what is observed."""
    return int(abs(observation[1]) * 10.0) % 5


async def ponder(observation: Any) -> int:
    """The same, for a trainer that waits between steps."""
    await asyncio.sleep(0)
    return walk(observation)


POLICIES: dict[str, Callable[[Any], Any]] = {"slow": ponder, "paying": ponder}


@dataclass(frozen=True, slots=True)
class Kept:
    """An episode's trajectory, as far as it is compared: one digest, reward and action a step."""

    digests: array[int]
    rewards: array[float]
    actions: tuple[bytes, ...]
    flags: int
    cause: str
    message: str
    reward_valid: bool
    resumes: tuple[Resume, ...]

    @classmethod
    def of(cls, trajectory: Trajectory) -> Kept:
        """What is kept of one."""
        failure = trajectory.failure
        actions = (hashlib.blake2b(action, digest_size=8).digest() for action in trajectory.packed_actions)
        return cls(
            digests=array("Q", trajectory.digests), rewards=array("d", trajectory.rewards), actions=tuple(actions),
            flags=trajectory.flags, cause=failure.cause if failure else "",
            message=failure.message if failure else "",
            reward_valid=failure.reward_valid if failure else True, resumes=tuple(trajectory.resumes),
        )  # fmt: skip

    def difference(self, other: Kept) -> str:
        """Where two are not the same; empty where they are."""
        for name in ("digests", "rewards", "actions"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                pairs = itertools.zip_longest(mine, theirs)
                at = next(at for at, (one, two) in enumerate(pairs) if one != two)
                return f"{name}[{at}] of {len(mine)} and {len(theirs)}"
        if self.flags != other.flags:
            return f"flags {self.flags} and {other.flags}"
        return ""


@dataclass(slots=True)
class Played:
    """What became of each episode, by environment and seed. ``begun`` are the seeds that were given out; ``doubled``
    those of which there was a second trajectory. ``live`` are samples of how many episodes there were at once,
    ``waits`` of what those waited for that had been without a copy for more than ``LONG_SECONDS``."""

    begun: dict[str, list[int]] = field(default_factory=dict)
    ended: dict[str, dict[int, Kept]] = field(default_factory=dict)
    doubled: list[tuple[str, int]] = field(default_factory=list)
    live: list[int] = field(default_factory=list)
    waits: Counter[str] = field(default_factory=Counter)

    @property
    def steps(self) -> int:
        """In all trajectories."""
        return sum(len(kept.rewards) for ended in self.ended.values() for kept in ended.values())

    @property
    def typically_live(self) -> int:
        """The median of the samples."""
        return int(statistics.median(self.live)) if self.live else 0


async def play(mesh: Mesh, seeds: Callable[[str], Iterable[int]]) -> Played:
    """Play every environment at once, with the seeds that are given for each."""
    played = Played()
    playing: list[Rollouts] = []

    def given(environment: str) -> Iterator[int]:
        begun = played.begun.setdefault(environment, [])
        for seed in seeds(environment):
            begun.append(seed)
            yield seed

    async def one(environment: str, concurrency: int) -> None:
        ended = played.ended.setdefault(environment, {})
        rollouts = mesh.rollouts(
            environment, POLICIES.get(environment, walk), seeds=given(environment), concurrency=concurrency
        )
        playing.append(rollouts)
        async for trajectory in rollouts:
            assert trajectory.seed is not None
            if trajectory.seed in ended:
                played.doubled.append((environment, trajectory.seed))
            ended[trajectory.seed] = Kept.of(trajectory)

    async def count() -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            played.live.append(sum(len(rollouts.live) for rollouts in playing))
            long_ago = mesh.loop_time() - LONG_SECONDS
            played.waits.update(
                f"{rebuild.episode.spec.name}, {rebuild.cause}: {rebuild.waits_for()}"
                for rebuild in mesh.recovery.rebuilds
                if not rebuild.live_copy and rebuild.started < long_ago
            )

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(count(), name="chaos-count")
        async with asyncio.TaskGroup() as rest:
            for environment, concurrency in EPISODES.items():
                rest.create_task(one(environment, concurrency), name=f"chaos-{environment}")
        counting.cancel()
    return played
