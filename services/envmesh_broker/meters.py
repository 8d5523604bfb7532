"""The broker's metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from envmesh.v1 import error_reason_pb2, fleet_pb2
from envmesh_broker.core import Core
from envmesh_broker.hosts import HostState
from envmesh_broker.scheduler import Decision
from envmesh_broker.tally import Tally
from envmesh_service.clock import Clock
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import SLOW_DURATION_BUCKETS, BoundedLabel, Registry

__all__ = ["Meters"]

MAX_TENANTS, MAX_POOLS = 200, 200
"""Label values at most, the one of all others included."""

REASONS = (
    "HOST_LOST",
    "PREEMPTED",
    "VERSION_GONE",
    "WORKER_LOST",
    "REPLAY_DIVERGED",
    "LIMIT_EXCEEDED",
)
REFUSALS = (
    "QUOTA_EXCEEDED",
    "QUEUE_FULL",
    "NO_CAPACITY",
    "GANG_IMPOSSIBLE",
    "ENVIRONMENT_UNKNOWN",
    "VERSION_RETIRING",
    "COMMAND_DEADLINE",
)
_STATE_LABELS = {state: "lost" if state is HostState.SILENT else state.value for state in HostState}

DRAIN_BUCKETS = (*SLOW_DURATION_BUCKETS, 1_000.0, 3_000.0, 10_000.0)
"""In seconds: a drain of our own choice has no deadline."""
DRAIN_OUTCOMES = {
    fleet_pb2.DRAIN_OUTCOME_EMPTIED: "emptied",
    fleet_pb2.DRAIN_OUTCOME_TAKEN_BACK: "taken_back",
    fleet_pb2.DRAIN_OUTCOME_OVERDUE: "overdue",
}

Said = Mapping[str, tuple[fleet_pb2.HostIdentity, fleet_pb2.HostReport]]
Values = dict[tuple[str, ...], float]


class Meters:
    """What the broker exports, beside the RPC layer's: placement, fleet, tenants, and what hosts' deaths would hide."""

    def __init__(self, registry: Registry, core: Core, lag: LoopLag, clock: Clock, said: Said) -> None:
        self._core, self._clock, self._lag, self._said = core, clock, lag, said
        self._tenant, self._pool = BoundedLabel(MAX_TENANTS - 1), BoundedLabel(MAX_POOLS - 1)
        self._tallies: dict[str, Tally] = {}
        self._drains: dict[str, tuple[str, float]] = {}
        self._states: dict[str, HostState] = {}
        self._ticked_at = clock()
        self._register(registry)
        self._register_state(registry)

    def _register(self, registry: Registry) -> None:
        self._granted = registry.counter("envmesh_granted_slots_total", "Slots granted.", ("tenant",))
        self._asked = registry.counter(
            "envmesh_acquire_requests_total", "Requests for slots that were let in.", ("tenant",)
        )
        self._refused = registry.counter(
            "envmesh_refused_requests_total", "Requests for slots that were refused or sent away.", ("reason",),
            [(reason,) for reason in REFUSALS],
        )  # fmt: skip
        self._lapsed = registry.counter("envmesh_lapsed_slots_total", "Slots granted and never shown.")
        self._wait = registry.histogram(
            "envmesh_queue_wait_seconds",
            "From Acquire until each of its grants, in seconds; warm: there was room when it came.",
            ("warm",),
            known=[("true",), ("false",)],
        )
        self._loop_lag = registry.histogram(
            "envmesh_event_loop_lag_seconds", "How late the event loop runs, in seconds."
        )
        self._slot_seconds = registry.counter(
            "envmesh_tenant_slot_seconds_total", "Slots under lease, times seconds.", ("tenant",)
        )
        self._lost = registry.counter("envmesh_hosts_lost_total", "Hosts that fell silent.", ("pool",))
        self._interrupted = registry.counter(
            "envmesh_interrupted_episodes_total",
            "Episodes that ended as ABORTED or DATA_LOSS and that nobody goes on with.",
            ("reason",),
            [(reason,) for reason in REASONS],
        )
        self._ended_drains = registry.counter(
            "envmesh_drains_total", "Drains that are over, by how they ended.", ("outcome",),
            [(outcome,) for outcome in DRAIN_OUTCOMES.values()],
        )  # fmt: skip
        self._drain = registry.histogram(
            "envmesh_drain_duration_seconds",
            "From a drain's beginning until its host was empty, it was taken back, or its time was over, in seconds.",
            (), DRAIN_BUCKETS,
        )  # fmt: skip

    def _register_state(self, registry: Registry) -> None:
        gauge, core = registry.gauge, self._core
        gauge("envmesh_queue_requests", "Requests that wait.", ("tenant",), self._queued)
        gauge(
            "envmesh_queue_slots",
            "Slots that wait, by whether quota lets them in.",
            ("state",),
            self._waiting,
        )
        gauge("envmesh_oldest_request_seconds", "Age of the oldest request that waits.", (), self._oldest)
        gauge("envmesh_pool_hosts", "Hosts.", ("pool", "state"), self._hosts)
        gauge("envmesh_pool_slots", "Slots of hosts that are heard.", ("pool", "state"), self._slots)
        gauge(
            "envmesh_pool_oldest_drain_seconds", "Age of the oldest drain, in seconds; 0 without one.", ("pool",),
            self._oldest_drains,
        )  # fmt: skip
        gauge("envmesh_tenant_slots", "Slots under lease.", ("tenant",), self._held)
        gauge(
            "envmesh_tenant_quota_slots", "Slots a tenant may hold; 0: no bound.", ("tenant",), self._quotas
        )
        gauge(
            "envmesh_other_label_values", "Different values that count as `other`, by what they are of.", ("what",),
            lambda: {("tenant",): float(self._tenant.overflowed), ("pool",): float(self._pool.overflowed)},
        )  # fmt: skip
        gauge(
            "envmesh_fleet_complete", "Whether every host of the last minutes is heard, or known to be gone.", (),
            lambda: {(): float(core.ledger.complete(self._clock()))},
        )  # fmt: skip

    # ---- what happens

    def asked(self, tenant: str) -> None:
        """A request was let in."""
        self._asked.add(1, self._tenant(tenant))

    def refused(self, reason: str) -> None:
        """A request was refused, or sent away."""
        self._refused.add(1, reason)

    def granted(self, tenant: str, decision: Decision, waited: float, warm: bool) -> None:
        """A grant goes out. ``warm``: there was room for it when it was asked for."""
        self._granted.add(sum(grant.count for grant in decision.grants), self._tenant(tenant))
        self._wait.labels("true" if warm else "false").note(waited)

    def tick(self) -> None:
        """Every half second or so: lags, slot-seconds, and what has become of hosts and their episodes."""
        samples, self._lag.samples[:] = self._lag.samples[:], ()
        self._loop_lag.labels().observe_many(samples)
        now = self._clock()
        for tenant, held in self._core.ledger.held.items():
            self._slot_seconds.add(held * (now - self._ticked_at), self._tenant(tenant))
        self._ticked_at = now
        self._lapsed.labels().value = float(self._core.lapsed)
        self._count_said()
        self._watch_hosts(now)

    def _count_said(self) -> None:
        """What hosts say they interrupted and how their drains ended, and what of class NONE was on a host that is gone
        without a word, or begins anew."""
        hosts, tallies = self._core.ledger.hosts, self._tallies
        for host_id, (identity, report) in self._said.items():
            tally = tallies.get(host_id)
            if tally is None or tally.identity is not identity:
                tally = tallies[host_id] = Tally.of(identity, before=tally)
            tally.record = hosts.get(host_id) or tally.record
            self._interrupted.add(tally.lost_since(report), "HOST_LOST")
            tally.live = sum(
                load.live for load in report.environments if load.environment in tally.class_none
            )
            for reason, episodes in tally.interrupted_since(report):
                self._interrupted.add(episodes, _reason(reason))
            for drain in tally.drains_since(report):
                self._ended_drains.add(1, DRAIN_OUTCOMES.get(drain.outcome, "other"))
                self._drain.labels().note(drain.duration.ToNanoseconds() / 1e9)
        for host_id in [host_id for host_id in tallies if host_id not in hosts]:
            tally = tallies.pop(host_id)
            if tally.live and tally.record is not None and tally.record.silent:
                self._interrupted.add(tally.live, "HOST_LOST")

    def _watch_hosts(self, now: float) -> None:
        ledger = self._core.ledger
        states = {host_id: ledger.state(record, now) for host_id, record in ledger.hosts.items()}
        for host_id, state in states.items():
            pool = self._pool(ledger.hosts[host_id].host.pool)
            if state is HostState.SILENT and self._states.get(host_id, state) is not state:
                self._lost.add(1, pool)
            if state is HostState.DRAINING:
                self._drains.setdefault(host_id, (pool, now))
            else:
                self._drains.pop(host_id, None)
        self._states = states
        self._drains = {host: drain for host, drain in self._drains.items() if host in states}

    # ---- what is looked up

    def _queued(self) -> Values:
        queue = self._core.queue
        return _sum((self._tenant(name), float(queue.of_tenant(name))) for name in queue.tenants()) or {
            ("default",): 0.0
        }

    def _waiting(self) -> Values:
        total = float(sum(waiting.remaining for waiting in self._core.queue.all()))
        admissible = float(sum(want.slots for want in self._core.wants()))
        return {("admissible",): admissible, ("held",): max(0.0, total - admissible)}

    def _held(self) -> Values:
        return _sum((self._tenant(name), float(held)) for name, held in self._core.ledger.held.items())

    def _quotas(self) -> Values:
        tenants = {*self._core.ledger.held, *self._core.queue.tenants()}
        return _sum((self._tenant(name), float(self._core.tenant(name).quota)) for name in tenants)

    def _oldest(self) -> Values:
        now = self._clock()
        return {(): max((now - w.request.entered_at for w in self._core.queue.all()), default=0.0)}

    def _pools(self) -> set[str]:
        pools = {
            record.host.pool for record in self._core.ledger.hosts.values()
        } | self._core.catalog.pools.keys()
        return {self._pool(pool) for pool in sorted(pools)}

    def _hosts(self) -> Values:
        ledger, now = self._core.ledger, self._clock()
        counts: Values = {(pool, label): 0.0 for pool in self._pools() for label in _STATE_LABELS.values()}
        for record in ledger.hosts.values():
            counts[self._pool(record.host.pool), _STATE_LABELS[ledger.state(record, now)]] += 1
        return counts

    def _slots(self) -> Values:
        ledger, now = self._core.ledger, self._clock()
        counts: Values = {
            (pool, state): 0.0 for pool in self._pools() for state in ("leased", "provisional", "free")
        }
        for record in ledger.hosts.values():
            if ledger.state(record, now) is HostState.SILENT:
                continue
            load, pool = record.load, self._pool(record.host.pool)
            counts[pool, "leased"] += load.used - load.provisional
            counts[pool, "provisional"] += load.provisional
            if record.placeable:
                counts[pool, "free"] += max(0, record.host.slots - load.used)
        return counts

    def _oldest_drains(self) -> Values:
        now = self._clock()
        ages: Values = {(pool,): 0.0 for pool in self._pools()}
        for pool, since in self._drains.values():
            ages[pool,] = max(ages.get((pool,), 0.0), now - since)
        return ages


def _reason(number: int) -> str:
    """The name of an ErrorReason; hosts of another version may know others."""
    known = number in error_reason_pb2.ErrorReason.values()
    name = error_reason_pb2.ErrorReason.Name(number) if known else "ERROR_REASON_UNKNOWN"  # type: ignore[arg-type]
    return name.removeprefix("ERROR_REASON_")


def _sum(pairs: Iterable[tuple[str, float]]) -> Values:
    total: Values = {}
    for name, value in pairs:
        total[name,] = total.get((name,), 0.0) + value
    return total
