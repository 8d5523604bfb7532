"""Plays episodes and counts what came of them: what ``run``, ``bench`` and the demo have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from envmesh.mesh import Mesh
from envmesh_cli.tally import Tally

__all__ = ["Plan", "drive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to play. One of ``episodes`` and ``seconds`` bounds it; both may."""

    environment: str
    policy: Any
    episodes: int | None = None
    seconds: float | None = None
    concurrency: int = 64
    seed: int | None = None
    seeds: Iterable[int] | None = None
    max_steps: int | None = None
    retries: int = 0
    grade: bool = False
    record: str | None = None
    options: Mapping[str, Any] | None = None
    measure: bool = True
    """Whether each step is timed, which costs some speed."""


async def drive(mesh: Mesh, plan: Plan, tally: Tally) -> None:
    """Play until the plan is done, keeping ``tally`` up to date; cancelled, it keeps what was counted so far.

    Raises:
        EnvmeshError: the environment is unknown, or no slot was to be had.
    """
    limit = asyncio.timeout(plan.seconds)
    rollouts = mesh.rollouts(
        plan.environment, plan.policy, episodes=plan.episodes, concurrency=plan.concurrency, seed=plan.seed,
        seeds=plan.seeds, max_steps=plan.max_steps, retries=plan.retries, grade=plan.grade, record=plan.record,
        options=plan.options, measure=plan.measure,
    )  # fmt: skip
    tally.open_episodes = rollouts.live
    tally.step_seconds, tally.reset_seconds = rollouts.step_seconds, rollouts.reset_seconds
    started = time.perf_counter()
    try:
        async with rollouts, limit:
            async for trajectory in rollouts:
                tally.add(trajectory)
                tally.seconds = time.perf_counter() - started
    except TimeoutError:
        if not limit.expired():
            raise
    finally:
        tally.seconds = time.perf_counter() - started
        tally.peak = rollouts.peak
