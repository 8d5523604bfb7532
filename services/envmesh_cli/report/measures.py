"""What the processes' own metrics say of a run: where a step's time goes, as the mesh saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from envmesh_cli.failures import USAGE, CommandFailed
from envmesh_cli.pages import read_page
from envmesh_service.metrics import read_samples

__all__ = ["Measured", "measure", "quantile"]

PATIENCE_SECONDS = 10.0

PARTS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("waiting for a slot", "envmesh_queue_wait_seconds", {}),
    ("reset", "envmesh_reset_duration_seconds", {}),
    ("step, in the environment", "envmesh_step_duration_seconds", {}),
    ("step, what envmesh on the host adds", "envmesh_step_overhead_seconds", {}),
    ("step, from the host's frame to its reply", "envmesh_command_duration_seconds", {"kind": "step"}),
    ("reward", "envmesh_reward_duration_seconds", {}),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One part of the time. Seconds."""

    part: str
    count: int
    p50: float
    p99: float


def measure(sources: Sequence[str]) -> list[Measured]:
    """Read the metrics of processes, from URLs or files, and add up what they say.

    Raises:
        CommandFailed: a source cannot be read, or holds no metrics.
    """
    totals: dict[str, dict[float, float]] = {}
    for source in sources:
        text = _text(source)
        try:
            samples = list(read_samples(text))
        except ValueError as error:
            raise CommandFailed(f"--metrics {source}: these are no metrics: {error}", USAGE) from None
        if not samples:
            raise CommandFailed(f"--metrics {source}: there are no metrics in it", USAGE)
        for name, labels, value in samples:
            for part, metric, wanted in PARTS:
                if name == f"{metric}_bucket" and wanted.items() <= labels.items():
                    buckets = totals.setdefault(part, {})
                    edge = float(labels["le"])
                    buckets[edge] = buckets.get(edge, 0.0) + value
    found = []
    for part, _, _ in PARTS:
        buckets = totals.get(part, {})
        count = int(max(buckets.values(), default=0))
        if count:
            found.append(Measured(part, count, quantile(buckets, 0.5), quantile(buckets, 0.99)))
    return found


def quantile(buckets: dict[float, float], share: float) -> float:
    """A quantile of a histogram with cumulative counts by upper bound, as Prometheus reckons it."""
    edges = sorted(buckets)
    rank = share * buckets[edges[-1]]
    below, low = 0.0, 0.0
    for edge in edges:
        if buckets[edge] >= rank:
            if edge == float("inf"):
                return low
            inside = buckets[edge] - below
            return low + (edge - low) * ((rank - below) / inside if inside else 1.0)
        below, low = buckets[edge], edge
    return low


def _text(source: str) -> str:
    try:
        if source.startswith(("http://", "https://")):
            data = read_page(source, seconds=PATIENCE_SECONDS)
        else:
            data = Path(source).read_bytes()
    except OSError as error:
        raise CommandFailed(f"--metrics {source}: it cannot be read: {error}", USAGE) from None
    return data.decode(errors="replace")
