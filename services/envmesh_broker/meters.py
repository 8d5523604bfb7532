"""The broker's metrics."""

from __future__ import annotations

from collections.abc import Iterable

from envmesh_broker.core import Core
from envmesh_broker.ledger import HostState
from envmesh_broker.scheduler import Decision
from envmesh_service.clock import Clock
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import BoundedLabel, Registry

__all__ = ["Meters"]

_TENANTS = 200
"""More tenants than this are counted as ``other``."""


class Meters:
    """What the broker exports, beside the RPC layer's."""

    def __init__(self, registry: Registry, core: Core, lag: LoopLag, clock: Clock) -> None:
        self._core, self._clock, self._lag = core, clock, lag
        self._tenant = BoundedLabel(_TENANTS)
        self._granted = registry.counter("envmesh_granted_slots_total", "Slots granted.", ("tenant",))
        self._wait = registry.histogram(
            "envmesh_queue_wait_seconds", "From Acquire until each of its grants."
        )
        self._loop_lag = registry.histogram("envmesh_event_loop_lag_seconds", "How late the event loop runs.")
        registry.gauge(
            "envmesh_lapsed_slots", "Slots granted and never shown, since the start.", (), self._lapsed
        )
        registry.gauge("envmesh_queue_requests", "Requests that wait.", ("tenant",), self._queued)
        registry.gauge(
            "envmesh_queue_oldest_seconds", "Age of the oldest request that waits.", (), self._oldest
        )
        registry.gauge("envmesh_pool_hosts", "Hosts.", ("pool", "state"), self._hosts)
        registry.gauge("envmesh_pool_slots", "Slots of hosts that are heard.", ("pool", "state"), self._slots)
        registry.gauge("envmesh_tenant_slots", "Slots under lease.", ("tenant",), self._held)
        registry.gauge(
            "envmesh_fleet_complete", "Whether the picture of the fleet is complete.", (), self._complete
        )

    def granted(self, tenant: str, decision: Decision, waited: float) -> None:
        """A grant goes out."""
        self._granted.add(sum(grant.count for grant in decision.grants), self._tenant(tenant))
        self._wait.labels().pending.append(waited)

    def take_lag(self) -> None:
        """Bring the measured lags into the histogram; to be called every second or so."""
        samples, self._lag.samples[:] = self._lag.samples[:], ()
        self._loop_lag.labels().observe_many(samples)

    def _lapsed(self) -> dict[tuple[str, ...], float]:
        return {(): float(self._core.lapsed)}

    def _queued(self) -> dict[tuple[str, ...], float]:
        queue = self._core.queue
        return _sum((self._tenant(name), float(queue.of_tenant(name))) for name in queue.tenants()) or {
            ("default",): 0.0
        }

    def _held(self) -> dict[tuple[str, ...], float]:
        return _sum((self._tenant(name), float(held)) for name, held in self._core.ledger.held.items())

    def _oldest(self) -> dict[tuple[str, ...], float]:
        now = self._clock()
        return {(): max((now - w.request.entered_at for w in self._core.queue.all()), default=0.0)}

    def _hosts(self) -> dict[tuple[str, ...], float]:
        ledger, now = self._core.ledger, self._clock()
        pools = {record.host.pool for record in ledger.hosts.values()} | self._core.pools.keys()
        counts: dict[tuple[str, ...], float] = {
            (pool, _STATE_LABELS[state]): 0.0 for pool in pools for state in HostState
        }
        for record in ledger.hosts.values():
            counts[record.host.pool, _STATE_LABELS[ledger.state(record, now)]] += 1
        return counts

    def _slots(self) -> dict[tuple[str, ...], float]:
        ledger, now = self._core.ledger, self._clock()
        counts: dict[tuple[str, ...], float] = {}
        for record in ledger.hosts.values():
            if ledger.state(record, now) is not HostState.SILENT:
                load = record.load
                used, promised = load.used - load.provisional, load.provisional
                free = max(0, record.host.slots - load.used)
                for state, slots in (("leased", used), ("provisional", promised), ("free", free)):
                    key = (record.host.pool, state)
                    counts[key] = counts.get(key, 0.0) + slots
        return counts

    def _complete(self) -> dict[tuple[str, ...], float]:
        return {(): float(self._core.ledger.complete(self._clock()))}


_STATE_LABELS = {state: "lost" if state is HostState.SILENT else state.value for state in HostState}


def _sum(pairs: Iterable[tuple[str, float]]) -> dict[tuple[str, ...], float]:
    total: dict[tuple[str, ...], float] = {}
    for name, value in pairs:
        total[name,] = total.get((name,), 0.0) + value
    return total
