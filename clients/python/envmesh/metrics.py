"""A trainer's metrics: ``ClientMetrics(mesh)``, for whichever exporter the trainer has.

Nothing here needs a metrics library. ``ClientMetrics`` is what ``prometheus_client`` calls a collector, so a trainer
that has it adds one line::

    prometheus_client.REGISTRY.register(envmesh.metrics.ClientMetrics(mesh))

Only episodes that begin afterwards are observed, and a client whose metrics nobody wants pays nothing for them. Names
and meanings are in docs/metrics.md; each begins with ``envmesh_client_``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

from envmesh.instruments import (
    COARSE_DURATION_BUCKETS,
    DURATION_BUCKETS,
    LENGTH_BUCKETS,
    REWARD_BUCKETS,
    BoundedLabel,
    Build,
    Counter,
    Family,
    Gauge,
    Histogram,
    Instrument,
    Labels,
)

if TYPE_CHECKING:
    from envmesh.mesh import Mesh
    from envmesh.outcome import Trajectory

__all__ = ["ClientMetrics", "Instruments"]

SOON = 0.02
"""Seconds until an episode that is over is looked at."""
MAX_ENVIRONMENTS = 32
REASONS = ("HOST_LOST", "POISON", "REPLAY_DIVERGED", "WORKER_CRASHED", "WORKER_LOST")
"""Why episodes are usually given up; their counters start at 0."""
LAGS = ("0", "1", "2-3", "4-7", "8+")
LAG_EDGES = (1, 2, 4, 8)


class Instruments:
    """Instruments by name, and how another thread gets a copy of them. They belong to the event loop that
    ``serve_from`` named, or to whoever calls."""

    def __init__(self) -> None:
        self._instruments: dict[str, Instrument] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None

    def counter(
        self, name: str, documentation: str, labels: Labels = (), known: Iterable[Labels] = ()
    ) -> Counter:
        """New counters; those of ``known`` label values start at 0 now."""
        counter = Counter(name, documentation, labels)
        self._add(name, counter)
        for values in known if labels else ((),):
            counter.labels(*values)
        return counter

    def histogram(
        self,
        name: str,
        documentation: str,
        labels: Labels = (),
        buckets: Sequence[float] = DURATION_BUCKETS,
        known: Iterable[Labels] = (),
    ) -> Histogram:
        """New histograms; those of ``known`` label values start at 0 now."""
        histogram = Histogram(name, documentation, labels, buckets)
        self._add(name, histogram)
        for values in known if labels else ((),):
            histogram.labels(*values)
        return histogram

    def gauge(
        self, name: str, documentation: str, labels: Labels, read: Callable[[], Mapping[Labels, float]]
    ) -> Gauge:
        """New gauges, read at each scrape: label values to number."""
        gauge = Gauge(name, documentation, labels, read)
        self._add(name, gauge)
        return gauge

    @property
    def instruments(self) -> Sequence[Instrument]:
        """Everything registered here, in that order."""
        return tuple(self._instruments.values())

    def flush(self) -> None:
        """Take in what the hot paths left in lists. To be called every second or so, which bounds the lists."""
        for instrument in self._instruments.values():
            instrument.flush()

    def serve_from(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let other threads collect: they ask this loop, which owns the numbers."""
        self._loop, self._thread = loop, threading.get_ident()

    def collect(self) -> Iterable[Family]:
        """What prometheus_client asks for at a scrape."""
        return [family for build in self._copies() for family in build()]

    def _add(self, name: str, instrument: Instrument) -> None:
        if name in self._instruments:
            raise ValueError(f"there is a metric {name} already")
        self._instruments[name] = instrument

    def _copies(self) -> list[Build]:
        loop = self._loop
        if loop is None or loop.is_closed() or threading.get_ident() == self._thread:
            return self._copy()
        copies: concurrent.futures.Future[list[Build]] = concurrent.futures.Future()

        def copy() -> None:
            if copies.set_running_or_notify_cancel():
                try:
                    copies.set_result(self._copy())
                except Exception as error:
                    copies.set_exception(error)

        loop.call_soon_threadsafe(copy)
        return copies.result(timeout=5.0)

    def _copy(self) -> list[Build]:
        self.flush()
        return [instrument.snapshot() for instrument in self._instruments.values()]


class ClientMetrics(Instruments):
    """What one client observes of its episodes. To be made where the client lives, once for each client."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        self._mesh = mesh
        self._environment = BoundedLabel(MAX_ENVIRONMENTS - 1)
        self._newest: float | None = None
        self._over: dict[str, _Over] = {}
        self._ended: list[Trajectory] = []
        self._register()
        self._register_recovery()
        mesh.meters = self
        self.serve_from(asyncio.get_running_loop())

    def _register(self) -> None:
        one = ("environment", "version")
        self._episodes = self.counter(
            "envmesh_client_episodes_total", "Episodes of rollouts that are over.", (*one, "outcome")
        )
        self._returns = self.histogram(
            "envmesh_client_episode_reward", "Return of an episode without failure.", one, REWARD_BUCKETS
        )
        self._lengths = self.histogram(
            "envmesh_client_episode_length_steps", "Steps of an episode without failure.", one, LENGTH_BUCKETS
        )
        self._lags = self.histogram(
            "envmesh_client_reward_by_lag",
            "Return by how many versions the policy of the first action was older than the newest seen.",
            ("lag",),
            REWARD_BUCKETS,
            [(lag,) for lag in LAGS],
        )
        self._tokens = self.counter(
            "envmesh_client_tokens_total",
            "Tokens of actions, where annotations tell: `tokens` (how many) or `token_ids`.",
            one,
        )
        self._groups = self.counter(
            "envmesh_client_groups_total",
            "Groups with at least two returns, by whether these differ.",
            (*one, "variance"),
        )
        self._thought = self.counter(
            "envmesh_client_policy_seconds_total", "Time in calls of synchronous policies, in seconds."
        ).labels()
        self._step = self.histogram(
            "envmesh_client_step_duration_seconds",
            "From sending an action until its outcome is there, in seconds; of one step at a time on each connection.",
        ).labels()
        self._reset = self.histogram(
            "envmesh_client_reset_duration_seconds",
            "From sending a reset until its outcome is there, in seconds.",
            (),
            COARSE_DURATION_BUCKETS,
        ).labels()
        self._slot = self.histogram(
            "envmesh_client_slot_wait_seconds", "From asking for slots until each is there, in seconds."
        )
        self.gauge("envmesh_client_live_episodes", "Episodes of rollouts that are open.", (), self._live)

    def _register_recovery(self) -> None:
        self._resumes = self.counter(
            "envmesh_client_resumes_total", "Episodes that stand again.", ("kind", "cause")
        )
        self._interrupted = self.counter(
            "envmesh_client_interrupted_episodes_total", "Episodes that could not be saved.", ("reason",),
            [(reason,) for reason in REASONS],
        )  # fmt: skip
        self._hosts_lost = self.counter("envmesh_client_hosts_lost_total", "Hosts that were given up.")
        self._notice = self.histogram(
            "envmesh_client_notice_seconds",
            "From a host's last sign of life until it was given up, in seconds.",
        )
        self._resume = self.histogram(
            "envmesh_client_resume_duration_seconds", "From a loss until the episode stood again, in seconds."
        )
        self._seen: dict[str, float] = {"notice": 0.0, "resume": 0.0}

    # ---- what rollouts tell

    def ended(self, trajectory: Trajectory) -> None:
        """An episode is over. It is looked at a moment later, when what goes on has been sent its next steps."""
        if not self._ended:
            asyncio.get_running_loop().call_later(SOON, self._take_ended)
        self._ended.append(trajectory)

    def _take_ended(self) -> None:
        ended, self._ended = self._ended, []
        for trajectory in ended:
            self._take(trajectory)

    def _take(self, trajectory: Trajectory) -> None:
        over = self._over.get(trajectory.spec.key)
        if over is None:
            over = self._over[trajectory.spec.key] = _Over(self, self._labels(trajectory))
        value = trajectory.return_
        if value is None:
            over.failed.value += 1
        else:
            (over.terminated if trajectory.terminated else over.truncated).value += 1
            over.returns.note(value)
            over.lengths.note(len(trajectory))
        annotations = trajectory.annotations
        if annotations:
            self._tokens.add(sum(map(_tokens_of, annotations.values())), *over.labels)
            lag = self._lag(annotations)
            if lag is not None and value is not None:
                self._lags.labels(lag).note(value)

    def grouped(self, group: Sequence[Trajectory]) -> None:
        """A group is full. With fewer than two returns it says nothing of how they vary."""
        returns = [trajectory.return_ for trajectory in group if trajectory.failure is None]
        if len(returns) > 1:
            self._groups.add(1, *self._labels(group[0]), "some" if len({*returns}) > 1 else "zero")

    def reset(self, seconds: float) -> None:
        """A reset's outcome came."""
        self._reset.note(seconds)

    def stepped(self, seconds: float) -> None:
        """The outcome of a sampled step came."""
        self._step.note(seconds)

    def slot_came(self, seconds: float) -> None:
        """A slot came that was asked for so long ago."""
        self._slot.labels().note(seconds)

    def thought(self, seconds: float) -> None:
        """The policy was called, and has answered."""
        self._thought.value += seconds

    def flush(self) -> None:
        """Take in what waits, and what the client's statistics have counted."""
        self._take_ended()
        statistics = self._mesh.statistics
        for key, count in statistics.resumes.items():
            self._resumes.labels(*key).value = float(count)
        for reason, count in statistics.fallen.items():
            self._interrupted.labels(reason).value = float(count)
        self._hosts_lost.labels().value = float(statistics.hosts_lost)
        self._take_new("notice", self._notice, statistics.notice_seconds, statistics.hosts_lost)
        self._take_new("resume", self._resume, statistics.resume_seconds, sum(statistics.resumes.values()))
        super().flush()

    def _take_new(self, what: str, into: Histogram, kept: Iterable[float], total: float) -> None:
        """Of the times that are kept, those that came since the last look."""
        times = list(kept)
        new = int(min(len(times), max(0.0, total - self._seen[what])))
        self._seen[what] = total
        if new:
            into.labels().observe_many(times[-new:])

    def _labels(self, trajectory: Trajectory) -> tuple[str, str]:
        spec = trajectory.spec
        return (spec.name, spec.version) if self._environment(spec.key) == spec.key else ("other", "other")

    def _lag(self, annotations: Mapping[int, Any]) -> str | None:
        annotation = next(iter(annotations.values()))
        version = annotation.get("policy_version") if isinstance(annotation, Mapping) else None
        if not isinstance(version, int | float):
            return None
        self._newest = version if self._newest is None else max(self._newest, version)
        lag = self._newest - version
        return LAGS[bisect_right(LAG_EDGES, lag)]

    def _live(self) -> Mapping[Labels, float]:
        return {(): float(sum(len(run.live) for run in self._mesh.rollout_runs))}


class _Over:
    """The series that an environment's episodes are counted in when they are over."""

    __slots__ = ("failed", "labels", "lengths", "returns", "terminated", "truncated")

    def __init__(self, metrics: ClientMetrics, labels: tuple[str, str]) -> None:
        self.labels = labels
        self.terminated, self.truncated, self.failed = (
            metrics._episodes.labels(*labels, outcome) for outcome in ("terminated", "truncated", "failed")
        )
        self.returns = metrics._returns.labels(*labels)
        self.lengths = metrics._lengths.labels(*labels)


def _tokens_of(annotation: Any) -> float:
    """How many tokens an action had, as far as its annotation says."""
    if not isinstance(annotation, Mapping):
        return 0.0
    count = annotation.get("tokens")
    if isinstance(count, int | float):
        return float(count) if 0 <= count < math.inf else 0.0
    ids = annotation.get("token_ids")
    return float(len(ids)) if isinstance(ids, Sized) else 0.0
