"""How environments fared lately, out of the totals that hosts report (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from envmesh.instruments import COARSE_DURATION_BUCKETS
from envmesh.v1 import fleet_pb2

__all__ = ["Failure", "History", "Point", "quantile"]

KEPT_POINTS = 600
KEPT_FAILURES = 200
MOST_ENVIRONMENTS = 64
WINDOW_POINTS = 5
"""Hosts report once a second, not all at once: a rate is that of so many looks."""

BUCKETS = len(COARSE_DURATION_BUCKETS) + 1


@dataclass(frozen=True, slots=True)
class Point:
    """One environment at one moment. Rates are per second; ``p50`` and ``p99`` the environment's own seconds in a step;
    ``mean_return`` is that of the episodes that ended since the point before. None: nothing to tell of."""

    live: int
    steps: float
    episodes: float
    failed: int
    mean_return: float | None
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """One episode that failed. ``at`` is on the clock that ``observe`` is given."""

    at: float
    environment: str
    episode_id: bytes
    index: int
    reason: str
    message: str
    host: str


@dataclass(slots=True)
class _Totals:
    steps: int = 0
    ended: int = 0
    failed: int = 0
    return_sum: float = 0.0
    live: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    @classmethod
    def of(cls, load: fleet_pb2.EnvironmentLoad) -> _Totals:
        buckets = list(load.step_buckets)
        if len(buckets) != BUCKETS:
            buckets = [0] * BUCKETS
        return cls(load.steps, load.ended, load.failed, load.return_sum, load.live, buckets)

    def add_change(self, now: _Totals, before: _Totals) -> None:
        """Add what came between two reports of one host; one that began anew counts from zero."""
        if now.steps < before.steps or now.ended < before.ended or now.failed < before.failed:
            before = _Totals()
        self.steps += now.steps - before.steps
        self.ended += now.ended - before.ended
        self.failed += now.failed - before.failed
        self.return_sum += now.return_sum - before.return_sum
        self.buckets = [
            mine + max(0, new - old)
            for mine, new, old in zip(self.buckets, now.buckets, before.buckets, strict=True)
        ]


class History:
    """The last minutes, an entry a look."""

    def __init__(self) -> None:
        self.points: dict[str, deque[Point]] = {}
        self.failures: deque[Failure] = deque(maxlen=KEPT_FAILURES)
        self._before: dict[tuple[str, str], _Totals] = {}
        self._changes: dict[str, deque[tuple[float, _Totals]]] = {}
        self._looked_at: float | None = None

    def note_failures(self, host: str, report: fleet_pb2.HostReport, now: float) -> None:
        """Keep what a report tells of failed episodes. A report tells each once."""
        for told in report.failures:
            at = now - told.ago.ToNanoseconds() / 1e9
            self.failures.append(
                Failure(at, told.environment, told.episode_id, told.index, told.reason, told.message, host)
            )

    def observe(self, now: float, reports: Mapping[str, fleet_pb2.HostReport]) -> None:
        """Look at every host's last report. A host's first one is where its counting begins."""
        elapsed = now - self._looked_at if self._looked_at is not None else 0.0
        self._looked_at = now
        changes: dict[str, _Totals] = {key: _Totals() for key in self.points}
        for host, report in reports.items():
            for load in report.environments:
                key = load.environment
                if key not in changes and len(changes) >= MOST_ENVIRONMENTS:
                    continue
                totals = _Totals.of(load)
                change = changes.setdefault(key, _Totals())
                before = self._before.get((host, key))
                if before is not None:
                    change.add_change(totals, before)
                change.live += totals.live
                self._before[host, key] = totals
        for gone in [each for each in self._before if each[0] not in reports]:
            del self._before[gone]
        for key, change in changes.items():
            lately = self._changes.setdefault(key, deque(maxlen=WINDOW_POINTS))
            lately.append((elapsed, change))
            self.points.setdefault(key, deque(maxlen=KEPT_POINTS)).append(_point(change, lately))


def _point(change: _Totals, lately: deque[tuple[float, _Totals]]) -> Point:
    seconds = sum(elapsed for elapsed, _ in lately)
    buckets = [sum(column) for column in zip(*(each.buckets for _, each in lately), strict=True)]
    return Point(
        live=change.live,
        steps=sum(each.steps for _, each in lately) / seconds if seconds else 0.0,
        episodes=sum(each.ended + each.failed for _, each in lately) / seconds if seconds else 0.0,
        failed=change.failed,
        mean_return=change.return_sum / change.ended if change.ended else None,
        p50=quantile(buckets, 0.5),
        p99=quantile(buckets, 0.99),
    )


def quantile(buckets: list[int], share: float) -> float | None:
    """A quantile in seconds of counts by COARSE_DURATION_BUCKETS; beyond the last bound, that bound."""
    rank = share * sum(buckets)
    if not rank:
        return None
    below, low = 0, 0.0
    for count, high in zip(buckets, COARSE_DURATION_BUCKETS, strict=False):
        if below + count >= rank:
            return low + (high - low) * (rank - below) / count
        below, low = below + count, high
    return COARSE_DURATION_BUCKETS[-1]
