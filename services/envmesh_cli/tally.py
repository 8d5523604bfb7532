"""What came of many episodes: counts, rates, latencies and rewards, as ``run --json`` prints them. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envmesh.outcome import Trajectory

__all__ = ["Tally", "latencies", "merged"]

QUANTILES = {"p50": 50, "p90": 90, "p99": 99}


@dataclass(slots=True)
class Tally:
    """Takes in trajectories as they finish."""

    environment: str
    agent: str = ""
    """With several agents: whose rewards count; empty: the sum of all."""
    episodes: int = 0
    steps: int = 0
    failed: int = 0
    peak: int = 0
    seconds: float = 0.0
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    """By cause, what the first such failure said."""
    open_episodes: Collection[Any] = ()
    step_seconds: Sequence[float] = ()
    reset_seconds: Sequence[float] = ()

    def add(self, trajectory: Trajectory) -> None:
        """One more."""
        length = len(trajectory)
        self.episodes += 1
        self.steps += length
        self.lengths.append(length)
        self.outcomes[trajectory.outcome] += 1
        failure = trajectory.failure
        if failure is None:
            self.returns.append(_return_of(trajectory, self.agent))
        else:
            self.failed += 1
            self.failures[failure.cause] += 1
            self.messages.setdefault(failure.cause, failure.message)

    @property
    def live(self) -> int:
        """Episodes that are open now."""
        return len(self.open_episodes)

    @property
    def all_steps(self) -> int:
        """Every step that was answered, those of unfinished episodes too."""
        return max(self.steps, len(self.step_seconds))

    @property
    def episodes_per_second(self) -> float:
        """Finished episodes over the whole time."""
        return self.episodes / self.seconds if self.seconds else 0.0

    @property
    def steps_per_second(self) -> float:
        """Steps over the whole time."""
        return self.all_steps / self.seconds if self.seconds else 0.0

    def report(self) -> dict[str, Any]:
        """One JSON object. A number that nothing was measured for is null."""
        returns, lengths = np.asarray(self.returns), np.asarray(self.lengths)
        return {
            "environment": self.environment,
            "episodes": self.episodes,
            "steps": self.all_steps,
            "seconds": round(self.seconds, 6),
            "episodes_per_second": round(self.episodes_per_second, 3),
            "steps_per_second": round(self.steps_per_second, 3),
            "step_seconds": latencies(self.step_seconds),
            "reset_seconds": latencies(self.reset_seconds),
            "reward": {
                "mean": float(returns.mean()) if returns.size else None,
                "min": float(returns.min()) if returns.size else None,
                "max": float(returns.max()) if returns.size else None,
            },
            "episode_length": {
                "mean": float(lengths.mean()) if lengths.size else None,
                "max": int(lengths.max()) if lengths.size else None,
            },
            "concurrency_peak": self.peak,
            "outcomes": dict(self.outcomes),
            "failures": dict(self.failures),
        }


def _return_of(trajectory: Trajectory, agent: str) -> float:
    if not agent:
        return float(sum(trajectory.rewards))
    return float(sum(outcome.reward.get(agent, 0.0) for outcome in trajectory.outcomes()[1:]))


def latencies(seconds: Sequence[float]) -> dict[str, float | None]:
    """``p50``, ``p90`` and ``p99`` in seconds; null where nothing was measured."""
    values = np.asarray(seconds, dtype=np.float64)
    if not values.size:
        return dict.fromkeys(QUANTILES)
    return dict(zip(QUANTILES, np.percentile(values, list(QUANTILES.values())).tolist(), strict=True))


def merged(tallies: Sequence[Tally], seconds: float) -> Tally:
    """All of them as one."""
    whole = Tally("all", seconds=seconds)
    for tally in tallies:
        whole.episodes += tally.episodes
        whole.steps += tally.steps
        whole.failed += tally.failed
        whole.peak += tally.peak
        whole.lengths += tally.lengths
        whole.returns += tally.returns
        whole.outcomes.update(tally.outcomes)
        whole.failures.update(tally.failures)
        whole.messages.update(tally.messages)
    whole.step_seconds = np.concatenate([np.asarray(tally.step_seconds, dtype=float) for tally in tallies])  # type: ignore[assignment]
    whole.reset_seconds = np.concatenate([np.asarray(tally.reset_seconds, dtype=float) for tally in tallies])  # type: ignore[assignment]
    return whole
