"""The autoscaler's metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from envmesh_autoscaler.demand import Terms
from envmesh_autoscaler.plan import Plan
from envmesh_service.metrics import Registry

__all__ = ["Meters", "PoolView"]

ACTIONS = ("raise", "drain", "take_back", "count_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """The last plan of a pool, with what led to it."""

    terms: Terms
    plan: Plan
    counts: Mapping[str, int]
    """Hosts by state, as the backend sees them."""
    held: bool
    oldest_drain: float
    max_hosts: int
    paused: bool
    dry_run: bool
    hpa: bool
    """An HPA of its own scales it: the plan is only said."""
    refused: bool


class Meters:
    """What the autoscaler exports. Only the leader exports pools."""

    def __init__(
        self,
        registry: Registry,
        leading: Callable[[], bool],
        *,
        calls: Mapping[tuple[str, str], int] | None = None,
        refusals: Mapping[tuple[str, str, str], int] | None = None,
    ) -> None:
        self.views: dict[str, PoolView] = {}
        self._leading = leading
        self.decisions = registry.counter(
            "envmesh_decisions_total", "Hosts by what was decided.", ("pool", "action")
        )
        self.refused = registry.counter(
            "envmesh_actions_refused_total",
            "Actions that could not be done, and were planned anew.",
            ("pool",),
        )
        self.seconds = registry.histogram(
            "envmesh_decision_duration_seconds", "From the broker's picture until replicas were written."
        )
        self.plan_seconds = registry.histogram(
            "envmesh_plan_duration_seconds", "Time of one pass over all pools."
        )
        self.drains = registry.histogram(
            "envmesh_scale_in_drain_duration_seconds",
            "From the order to drain until the host had sealed itself.",
        )
        self.mismatches = registry.counter(
            "envmesh_scale_in_mismatches_total", "Hosts that went in the place of those meant.", ("pool",)
        )
        registry.gauge("envmesh_leader", "Whether this autoscaler leads.", (), self._leader)
        registry.gauge(
            "envmesh_plan_slots", "The terms of the plan, in slots.", ("pool", "term"), self._slots
        )
        registry.gauge(
            "envmesh_plan_hosts",
            "Hosts: wanted, asked for, and as the backend sees them.",
            ("pool", "state"),
            self._hosts,
        )
        registry.gauge("envmesh_plan_held", "Whether nothing may be lowered now.", ("pool",), self._held)
        self._one(registry, "envmesh_pool_max_hosts", "Hosts a pool may have.", lambda view: view.max_hosts)
        self._one(registry, "envmesh_pool_paused", "Whether a pool is not scaled.", lambda view: view.paused)
        self._one(
            registry, "envmesh_pool_dry_run", "Whether decisions are only said.", lambda view: view.dry_run
        )
        self._one(
            registry, "envmesh_pool_hpa", "Whether an HPA of its own scales a pool.", lambda view: view.hpa
        )
        self._one(
            registry,
            "envmesh_pool_hosts_refused",
            "Whether the cluster refuses to create a pool's hosts.",
            lambda view: view.refused,
        )
        registry.gauge(
            "envmesh_drain_oldest_seconds", "Age of the oldest drain of a pool.", ("pool",), self._oldest
        )

        calls = {} if calls is None else calls
        refusals = {} if refusals is None else refusals
        registry.gauge(
            "envmesh_kubernetes_calls", "Calls to the API server since the start.", ("verb", "resource"),
            lambda: {key: float(count) for key, count in calls.items()},
        )  # fmt: skip
        registry.gauge(
            "envmesh_kubernetes_refused_calls",
            "Of these, those it refused (429: it throttles) or did not answer (0).",
            ("verb", "resource", "status"),
            lambda: {key: float(count) for key, count in refusals.items()},
        )

    def pool(self, name: str) -> None:
        """A pool is known: its counters start at 0."""
        for action in ACTIONS:
            self.decisions.labels(name, action)
        self.refused.labels(name)
        self.mismatches.labels(name)

    def _one(
        self, registry: Registry, name: str, documentation: str, read: Callable[[PoolView], float]
    ) -> None:
        """A gauge with one number a pool."""
        registry.gauge(
            name, documentation, ("pool",),
            lambda: {(pool,): float(read(view)) for pool, view in self._all().items()},
        )  # fmt: skip

    def _leader(self) -> dict[tuple[str, ...], float]:
        return {(): float(self._leading())}

    def _all(self) -> Mapping[str, PoolView]:
        return self.views if self._leading() else {}

    def _slots(self) -> dict[tuple[str, ...], float]:
        rows: dict[tuple[str, ...], float] = {}
        for pool, view in self._all().items():
            terms = view.terms
            for term in ("leased", "queued", "reserved", "now", "forecast", "buffer", "want"):
                rows[pool, term] = float(getattr(terms, term))
        return rows

    def _hosts(self) -> dict[tuple[str, ...], float]:
        rows: dict[tuple[str, ...], float] = {}
        for pool, view in self._all().items():
            rows[pool, "wanted"] = float(view.plan.wanted)
            rows[pool, "replicas"] = float(view.plan.replicas)
            rows.update({(pool, state): float(count) for state, count in view.counts.items()})
        return rows

    def _held(self) -> dict[tuple[str, ...], float]:
        return {(pool,): float(view.held) for pool, view in self._all().items()}

    def _oldest(self) -> dict[tuple[str, ...], float]:
        return {(pool,): view.oldest_drain for pool, view in self._all().items()}
