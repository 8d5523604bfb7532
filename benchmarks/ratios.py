"""What the rounds say (pure): medians, percentiles, and paired ratios with their ranges."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers import Role
from benchmarks.steps import Line


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast one of our forms is as another line at a concurrency: median, least and most of rounds."""

    ours: str
    other: str
    kind: str
    concurrency: int
    median: float
    least: float
    most: float


def median_rate(line: Line, concurrency: int) -> float | None:
    """The median of a line's steps per second, None where it has no round."""
    rounds = line.rounds.get(concurrency)
    return statistics.median(rounds.steps_per_second) if rounds and rounds.steps_per_second else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` of the values lie, None where there are none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else None


def best_peer(lines: Sequence[Line], concurrency: int) -> Line | None:
    """The peer with the highest median at this concurrency."""
    rated = [
        (rate, line)
        for line in lines
        if line.peer.role is Role.PEER and (rate := median_rate(line, concurrency)) is not None
    ]
    return max(rated, key=lambda pair: pair[0])[1] if rated else None


def ratios(lines: Sequence[Line]) -> list[Ratio]:
    """Each of our forms against the best peer, and against the limit of the same form."""
    found = []
    for ours in (line for line in lines if line.peer.role is Role.OURS):
        limit = next(
            (line for line in lines if line.peer.role is Role.LIMIT and line.peer.form is ours.peer.form),
            None,
        )
        for concurrency in ours.rounds:
            for kind, other in (("best peer", best_peer(lines, concurrency)), ("limit", limit)):
                if other is not None and concurrency in other.rounds:
                    found.append(_ratio(ours, other, kind, concurrency))
    return found


def _ratio(ours: Line, other: Line, kind: str, concurrency: int) -> Ratio:
    # A line that failed on the way has fewer rounds; those it has stood beside the first ones of the other.
    pairs = zip(
        ours.rounds[concurrency].steps_per_second, other.rounds[concurrency].steps_per_second, strict=False
    )
    each = [mine / theirs for mine, theirs in pairs if theirs]
    return Ratio(
        ours.peer.name, other.peer.name, kind, concurrency,
        statistics.median(each or [0.0]), min(each, default=0.0), max(each, default=0.0),
    )  # fmt: skip
