"""What a run has shown: the disturbed half compared with the calm one (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.trainer import Played

__all__ = ["Findings", "examine", "percentile"]

RECOVERABLE = frozenset({"replayed", "worker", "saved", "slow", "pair"})
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Findings:
    """``wrong`` is empty where every promise was kept."""

    episodes: dict[str, dict[str, int]]
    resumed: dict[str, dict[str, float]]
    wrong: list[str]


def examine(disturbed: Played, calm: Played, acts: Mapping[tuple[int, int], int]) -> Findings:
    """Compare. ``acts`` counts how often each step (seed, index) of the environment without recovery was done."""
    wrong: list[str] = []
    episodes: dict[str, dict[str, int]] = {}
    for environment, begun in disturbed.begun.items():
        ended, reference = disturbed.ended[environment], calm.ended[environment]
        counts = Counter(begun=len(begun), steps=0, rebuilt=0, aborted=0, lost=0, different=0)
        for seed in begun:
            kept = ended.get(seed)
            if kept is None:
                counts["lost"] += 1
                wrong.append(f"{environment} seed {seed}: lost, there is no trajectory")
                continue
            counts["steps"] += len(kept.rewards)
            counts["rebuilt"] += bool(kept.resumes)
            if kept.cause and environment not in RECOVERABLE:
                counts["aborted"] += 1
                if kept.reward_valid:
                    wrong.append(
                        f"{environment} seed {seed}: ended as {kept.cause} with its rewards called valid"
                    )
                continue
            difference = (
                f"ended as {kept.cause}: {kept.message}" if kept.cause else kept.difference(reference[seed])
            )
            if difference:
                counts["different"] += 1
                wrong.append(f"{environment} seed {seed}: {difference}")
        episodes[environment] = dict(counts)
    wrong += [f"{environment} seed {seed}: two trajectories" for environment, seed in disturbed.doubled]
    wrong += [f"calm {environment} seed {seed}: {kept.cause}" for environment, ended in calm.ended.items()
              for seed, kept in ended.items() if kept.cause]  # fmt: skip
    wrong += [
        f"paying seed {seed}: step {index} was done {times} times"
        for (seed, index), times in acts.items()
        if times > 1
    ]
    for seed, kept in disturbed.ended.get("paying", {}).items():
        missing = [index for index in range(1, len(kept.rewards) + 1) if not acts.get((seed, index))]
        if missing:
            wrong.append(f"paying seed {seed}: step {missing[0]} is in the trajectory and was never done")
    return Findings(episodes, _resumed(disturbed), wrong)


def _resumed(played: Played) -> dict[str, dict[str, float]]:
    """By cause, and by whether it was replayed: how many resumes, and how many seconds they took."""
    seconds: dict[str, list[float]] = {}
    for ended in played.ended.values():
        for kept in ended.values():
            for resume in kept.resumes:
                kind = "replayed" if resume.replayed else "live copy"
                seconds.setdefault(f"{resume.cause}, {kind}", []).append(resume.seconds)
    return {
        name: {"times": len(found), "p50": percentile(found, 0.5) or 0.0, "p99": percentile(found, 0.99) or 0.0,
               "max": max(found)}
        for name, found in sorted(seconds.items())
    }  # fmt: skip


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that this share of them is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as a Markdown table, the first one its head."""
    head, *rest = [[str(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
