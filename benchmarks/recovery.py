"""What a lost host costs, and what being ready for it costs: ``python -m benchmarks.recovery``.

*Loss*: 1,000 episodes of the three recovery classes play on four hosts, which share them evenly; one host is killed.
How long after the kill has each episode that was on it taken its next step? An episode of class NONE cannot, and ends;
so its line is what a trainer can do by itself, as with any system that does not recover: begin again with the same seed
and repeat the actions over the wire, one by one. How fast do the episodes go on that were elsewhere?

*Readiness*, while nothing fails: steps per second of the echo environment beside the same host without digests and the
same client without journals; and of a walk that is saved every 100, 10 or 1 steps beside one that never is. The sides
take turns; ratios are paired.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import envmesh
from benchmarks import readiness
from benchmarks.walks import LENGTH
from envmesh.mesh import Mesh
from envmesh.outcome import Trajectory
from envmesh_cli.local_mesh import LocalMesh
from envmesh_cli.pools import PoolPlan

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "recovery.json"
CLASSES = ("replay", "state", "none")
TARGETS = tuple(f"{name}=benchmarks.walks:{name.capitalize()}{'_' * (name == 'none')}" for name in CLASSES)
HOSTS = 4
EPISODES = 1_000
WARM_UP_STEPS = LENGTH // 3
BEFORE_SECONDS = 2.0
ROUND_SECONDS = 240.0


class Clock:
    """When each episode (a row) took each step (a column), in seconds; NaN where it did not."""

    def __init__(self, episodes: int) -> None:
        self.times = np.full((episodes, LENGTH + 1), np.nan)

    def policy(self, observation: Any) -> int:
        """Note the time, and walk by what is observed."""
        seed, step, place = observation.tolist()
        self.times[int(seed), int(step)] = time.perf_counter()
        return int(abs(place) * 10.0) % 5

    def rate(self, episodes: Sequence[int], since: float, until: float) -> float:
        """Steps per second of these episodes in between."""
        times = self.times[list(episodes)]
        return float(((times >= since) & (times < until)).sum()) / (until - since)


class Loss:
    """One round: a mesh, a thousand episodes, one host killed."""

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes
        self.clock = Clock(episodes)
        self.killed_at = 0.0
        self.delays: dict[str, list[float]] = {name: [] for name in ("replay", "state", "by hand")}
        self.failed_after: list[float] = []
        self.elsewhere: list[int] = []
        self.replayed = 0

    async def run(self) -> dict[str, Any]:
        """Play it. Returns its figures."""
        settings = {
            "PYTHONPATH": str(ROOT),
            "ENVMESH_HOST_SLOTS": str(self.episodes),
            "ENVMESH_HOST_PLACEMENT": "spread",
        }
        plan = PoolPlan(name="walks", targets=TARGETS, hosts=HOSTS, settings=settings)
        async with (
            LocalMesh([plan]) as local,
            envmesh.connect(local.address) as mesh,
            asyncio.timeout(ROUND_SECONDS),
            asyncio.TaskGroup() as group,
        ):
            for number, name in enumerate(CLASSES):
                seeds = range(number, self.episodes, len(CLASSES))
                group.create_task(self._play(mesh, name, seeds, group), name=f"play-{name}")
            group.create_task(self._kill(local), name="kill")
        return self._figures()

    async def _kill(self, local: LocalMesh) -> None:
        times = self.clock.times
        while np.isnan(times[:, WARM_UP_STEPS]).mean() > 0.5:  # noqa: ASYNC110 - half of them shall be so far
            await asyncio.sleep(0.05)
        self.killed_at = time.perf_counter()
        local.hosts[0].crash()

    async def _play(self, mesh: Mesh, name: str, seeds: Sequence[int], group: asyncio.TaskGroup) -> None:
        async for trajectory in mesh.rollouts(name, self.clock.policy, seeds=seeds, concurrency=len(seeds)):
            seed = trajectory.seed
            assert seed is not None
            if trajectory.failure is not None:
                self.failed_after.append(time.perf_counter() - self.killed_at)
                group.create_task(self._repeat(mesh, name, trajectory), name=f"repeat-{seed}")
            elif not trajectory.resumes:
                self.elsewhere.append(seed)
            else:
                resume = trajectory.resumes[0]
                self.replayed += resume.replayed
                taken = self.clock.times[seed, resume.index + 1]
                if not np.isnan(taken):  # the last step of an episode asks the policy nothing
                    self.delays[name].append(float(taken) - self.killed_at)

    async def _repeat(self, mesh: Mesh, name: str, trajectory: Trajectory) -> None:
        """What is left to a trainer whose mesh does not recover: the same seed, the same actions, one by one."""
        async with mesh.episode(name, seed=trajectory.seed) as episode:
            for action in trajectory.actions:
                await episode.step(action)
            await episode.step(0)
        self.delays["by hand"].append(time.perf_counter() - self.killed_at)

    def _figures(self) -> dict[str, Any]:
        recovered = [delay for name in ("replay", "state") for delay in self.delays[name]]
        last = self.killed_at + max(recovered, default=1.0)
        before = self.clock.rate(self.elsewhere, self.killed_at - BEFORE_SECONDS, self.killed_at)
        during = self.clock.rate(self.elsewhere, self.killed_at, last)
        return {
            "next_step_seconds": {name: _spread(delays) for name, delays in self.delays.items()},
            "told_seconds": _spread(self.failed_after),
            "episodes": {"lost": sum(map(len, self.delays.values())), "elsewhere": len(self.elsewhere)},
            "replayed_steps": self.replayed,
            "elsewhere_steps_per_second": {"before": round(before), "during": round(during)},
            "throughput_lost_elsewhere": round(1.0 - during / before, 4) if before else None,
        }


def _spread(values: Sequence[float]) -> dict[str, float | int]:
    if not values:
        return {"episodes": 0}
    p50, p99 = np.percentile(values, (50, 99))
    return {"episodes": len(values), "p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _summary(rounds: Sequence[dict[str, Any]]) -> str:
    """The losses as a Markdown table: medians over the rounds."""

    def median(*path: str) -> float | None:
        found = []
        for one in rounds:
            value: Any = one
            for key in path:
                value = value.get(key) if value is not None else None
            if value is not None:
                found.append(value)
        return statistics.median(found) if found else None

    rows = ["| class | episodes | next step p50, s | p99, s | of by hand, p50 |", "|---|---|---|---|---|"]
    by_hand = median("next_step_seconds", "by hand", "p50")
    for name in ("replay", "state", "by hand"):
        count, p50, p99 = (median("next_step_seconds", name, key) for key in ("episodes", "p50", "p99"))
        if p50 is not None and p99 is not None:
            ratio = f"{p50 / by_hand:.2f}" if by_hand else ""
            rows.append(f"| {name} | {count:.0f} | {p50:.3f} | {p99:.3f} | {ratio} |")
    lost = median("throughput_lost_elsewhere")
    if lost is not None:
        rows += ["", f"The episodes elsewhere lost {lost:.1%} of their steps per second meanwhile."]
    return "\n".join(rows)


def main() -> int:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="hosts to be killed, one after another (default: 3)"
    )
    parser.add_argument("--episodes", type=int, default=EPISODES, help="at once (default: 1,000)")
    parser.add_argument("--ready-rounds", type=int, default=7, help="rounds of what readiness costs; 0: none")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    losses = []
    for number in range(arguments.rounds):
        losses.append(asyncio.run(Loss(arguments.episodes).run()))
        print(f"round {number + 1}: {json.dumps(losses[-1])}", flush=True)
    print(f"\n{_summary(losses)}\n", flush=True)
    ready = asyncio.run(readiness.measure(arguments.ready_rounds)) if arguments.ready_rounds else None
    if ready is not None:
        print(readiness.summary(ready))
    result = {
        "python": platform.python_version(),
        "hosts": HOSTS,
        "episodes": arguments.episodes,
        "losses": losses,
        "readiness": ready,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
