"""What ``envmesh top`` shows, out of two pictures of a fleet or a lone host. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from envmesh.v1 import fleet_pb2, placement_pb2

__all__ = ["HostRow", "PoolRow", "View", "view_of_fleet", "view_of_pools"]

_STATES = {number: name.removeprefix("HOST_STATE_").lower() for name, number in fleet_pb2.HostState.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    """One host. Rates are per second since the picture before."""

    host: str
    pool: str
    state: str
    slots: int
    in_use: int
    leased: int
    live: int
    steps_per_second: float
    episodes_per_second: float
    failed: int
    lag_seconds: float
    memory_bytes: int
    cores: float
    """CPU seconds a second, workers included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRow:
    """One pool. None is what a host alone does not tell."""

    pool: str
    environments: tuple[str, ...]
    hosts: dict[str, int]
    """By state."""
    slots: int
    in_use: int
    leased: int
    queued: int
    steps_per_second: float | None
    episodes_per_second: float | None
    failed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that is shown."""

    pools: tuple[PoolRow, ...]
    hosts: tuple[HostRow, ...]
    tenants: dict[str, dict[str, int]]
    complete: bool
    uptime_seconds: float | None
    alone: bool = False
    """A host without a broker: it knows of nothing else, and its rates are among its metrics."""
    away: bool = False
    """The broker does not answer: this is what it said last."""

    def as_json(self) -> dict[str, Any]:
        """One JSON object."""
        return asdict(self)


def view_of_fleet(now: fleet_pb2.Fleet, before: fleet_pb2.Fleet | None, seconds: float) -> View:
    """The view of a broker's fleet; rates come from the picture ``seconds`` before."""
    earlier = {status.identity.host_id: status for status in before.hosts} if before is not None else {}
    hosts = tuple(_host(status, earlier.get(status.identity.host_id), seconds) for status in now.hosts)
    queued = {queue.environment: queue.admissible + queue.held for queue in now.queues}
    pools: dict[str, list[HostRow]] = {}
    serves: dict[str, dict[str, None]] = {}
    for status, row in zip(now.hosts, hosts, strict=True):
        pools.setdefault(row.pool, []).append(row)
        keys = (f"{info.name}@{info.version}" for info in status.identity.environments)
        serves.setdefault(row.pool, {}).update(dict.fromkeys(keys))
    rows = [_pool(name, tuple(serves[name]), members, queued) for name, members in sorted(pools.items())]
    placed = {key for row in rows for key in row.environments} | {
        key.partition("@")[0] for row in rows for key in row.environments
    }
    rows += [_waiting(name, slots) for name, slots in sorted(queued.items()) if name not in placed and slots]
    tenants = {
        tenant.tenant: {"leased": tenant.leased, "queued": tenant.queued_slots, "quota": tenant.quota}
        for tenant in now.tenants
    }
    return View(
        pools=tuple(rows), hosts=hosts, tenants=tenants, complete=now.complete,
        uptime_seconds=now.uptime.ToNanoseconds() / 1e9,
    )  # fmt: skip


def view_of_pools(pools: Iterable[placement_pb2.Pool]) -> View:
    """The view of a host alone, which tells slots only."""
    rows = tuple(
        PoolRow(
            pool=pool.name, environments=tuple(f"{info.name}@{info.version}" for info in pool.environments),
            hosts={"ready": pool.ready_hosts}, slots=pool.slots, in_use=pool.leased, leased=pool.leased,
            queued=pool.queued, steps_per_second=None, episodes_per_second=None, failed=None,
        )
        for pool in pools
    )  # fmt: skip
    return View(pools=rows, hosts=(), tenants={}, complete=True, uptime_seconds=None, alone=True)


def _host(status: fleet_pb2.HostStatus, before: fleet_pb2.HostStatus | None, seconds: float) -> HostRow:
    report, identity = status.report, status.identity
    earlier = before.report if before is not None else None

    def per_second(field: str) -> float:
        if earlier is None or seconds <= 0:
            return 0.0
        return max(0.0, float(_total(report, field) - _total(earlier, field)) / seconds)

    cpu = (
        max(0.0, report.cpu_seconds - earlier.cpu_seconds) / seconds
        if earlier is not None and seconds > 0
        else 0.0
    )
    in_use = sum(lease.in_use for lease in report.leases)
    return HostRow(
        host=identity.name or identity.host_id[:12],
        pool=identity.pool,
        state=_STATES.get(status.state, "unknown"),
        slots=identity.slots,
        in_use=in_use + report.unleased,
        leased=in_use + sum(lease.idle for lease in report.leases) + status.provisional,
        live=_total(report, "live"),
        steps_per_second=round(per_second("steps"), 1),
        episodes_per_second=round(per_second("ended") + per_second("failed"), 1),
        failed=_total(report, "failed"),
        lag_seconds=report.event_loop_lag,
        memory_bytes=report.memory_bytes,
        cores=round(cpu, 2),
    )


def _total(report: fleet_pb2.HostReport, field: str) -> int:
    return sum(int(getattr(load, field)) for load in report.environments)


def _pool(
    name: str, environments: tuple[str, ...], hosts: Sequence[HostRow], queued: dict[str, int]
) -> PoolRow:
    states: dict[str, int] = {}
    for host in hosts:
        states[host.state] = states.get(host.state, 0) + 1
    names = {*environments, *(key.partition("@")[0] for key in environments)}
    return PoolRow(
        pool=name,
        environments=environments,
        hosts=states,
        slots=sum(host.slots for host in hosts if host.state == "ready"),
        in_use=sum(host.in_use for host in hosts),
        leased=sum(host.leased for host in hosts),
        queued=sum(slots for environment, slots in queued.items() if environment in names),
        steps_per_second=round(sum(host.steps_per_second for host in hosts), 1),
        episodes_per_second=round(sum(host.episodes_per_second for host in hosts), 1),
        failed=sum(host.failed for host in hosts),
    )


def _waiting(environment: str, slots: int) -> PoolRow:
    """Requests for something that no host serves."""
    return PoolRow(
        pool="–", environments=(environment,), hosts={}, slots=0, in_use=0, leased=0, queued=slots,
        steps_per_second=0.0, episodes_per_second=0.0, failed=0,
    )  # fmt: skip
