"""The ledger: who is there, who holds which slots, and what has been promised and not yet shown.

Hosts are the truth. What a host reports replaces what was known of it, and its load is counted anew from that table
and from the grants it has not been shown yet. What is kept for all hosts together (slots by tenant, the shelves of
placement) is made of these counts, a host's part replaced whole. Time is an argument, in seconds of one monotonic
clock.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from envmesh_broker.placement import Room, Shelf

__all__ = ["Grant", "Host", "HostRecord", "HostState", "LeaseRow", "Ledger", "LedgerBounds", "Load", "Report"]


class HostState(enum.StrEnum):
    """What a host is doing, as far as the broker can tell."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    SEALED = "sealed"
    SILENT = "silent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Who a host is; it does not change while it lives. ``environments`` are written name@version."""

    host_id: str
    pool: str
    address: str
    slots: int
    environments: tuple[str, ...]
    name: str = ""
    environment_slots: Mapping[str, int] = field(default_factory=dict)
    spread: bool = False
    max_hosts: int = 0
    metadata: tuple[tuple[str, str], ...] = ()
    server_name: str = ""
    """The name on its certificate, where that is not its address."""


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease in a host's table."""

    lease_id: bytes
    tenant: str
    environment: str
    in_use: int
    idle: int
    client_id: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What a host reports: always the whole picture. ``lag`` is its event loop's, in seconds."""

    state: HostState
    rows: tuple[LeaseRow, ...] = ()
    unleased: int = 0
    lag: float = 0.0
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """Slots promised on one host; provisional until the host's table has them."""

    lease_id: bytes
    host_id: str
    tenant: str
    environment: str
    client_id: bytes
    count: int
    lapses_at: float
    relocation: bool = False


@dataclass(slots=True)
class Load:
    """What is taken on a host, counted from its table and its provisional grants."""

    used: int = 0
    provisional: int = 0
    environments: dict[str, int] = field(default_factory=dict)
    tenants: dict[str, int] = field(default_factory=dict)
    clients: dict[bytes, int] = field(default_factory=dict)

    def add(self, tenant: str, environment: str, client_id: bytes, slots: int) -> None:
        """Count ``slots`` more while the table is gone through."""
        self.used += slots
        self.environments[environment] = self.environments.get(environment, 0) + slots
        self.tenants[tenant] = self.tenants.get(tenant, 0) + slots
        self.clients[client_id] = self.clients.get(client_id, 0) + slots


@dataclass(slots=True)
class HostRecord:
    """What is known of a host."""

    host: Host
    session: int
    heard_at: float
    connected: bool = True
    silent: bool = False
    suspended: bool = False
    """Its witness says that its loop does not turn, and nothing was heard since."""
    leaving: bool = False
    """It was told to drain, or will be with the next answer to it."""
    report: Report | None = None
    grants: dict[bytes, Grant] = field(default_factory=dict)
    load: Load = field(default_factory=Load)
    steady_idle: dict[bytes, int] = field(default_factory=dict)
    """Slots by lease that were idle in this report and in the one before."""

    @property
    def placeable(self) -> bool:
        """Whether something new can be placed here."""
        report = self.report
        there = self.connected and not self.silent and not self.suspended and not self.leaving
        return there and report is not None and report.state is HostState.READY

    def count(self) -> Load:
        """The load, counted anew."""
        load = Load()
        if self.report is not None:
            load.used = self.report.unleased
            for row in self.report.rows:
                load.add(row.tenant, row.environment, row.client_id, row.in_use + row.idle)
        for grant in self.grants.values():
            load.add(grant.tenant, grant.environment, grant.client_id, grant.count)
            load.provisional += grant.count
        return load

    def free(self, environment: str) -> int:
        """How many more slots it has for an environment; never below 0, however much it holds."""
        free = self.host.slots - self.load.used
        bound = self.host.environment_slots.get(environment)
        if bound is not None:
            free = min(free, bound - self.load.environments.get(environment, 0))
        return max(free, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerBounds:
    """How long the ledger believes, in seconds."""

    liveness: float = 5.0
    """After this long a silence nothing more is placed on a host."""
    forget: float = 300.0
    """After this long a silence a host is gone."""
    remember: float = 600.0
    """So long an environment is still known when its last host has gone."""
    lagging: float = 0.25
    """A host whose event loop is later than this is taken last."""
    settle: float = 2.0
    """So long a new ledger waits for hosts to come back before it calls its picture complete."""


class Ledger:
    """Hosts, leases and grants."""

    def __init__(self, now: float, bounds: LedgerBounds = LedgerBounds()) -> None:
        self.bounds = bounds
        self.started_at = now
        self.hosts: dict[str, HostRecord] = {}
        self.shelves: dict[str, Shelf] = {}
        self.held: dict[str, int] = {}
        """Slots by tenant: under lease and promised."""
        self._of_client: dict[bytes, set[str]] = {}
        self._by_environment: dict[str, dict[str, HostRecord]] = {}
        self._remembered: dict[str, float] = {}
        self._sessions = 0
        self._registered_at = now
        self._settled = False
        self.catalog_version = 0
        """Rises when what is served, or where it can be placed, may have changed."""

    # ---- what hosts say

    def register(self, host: Host, now: float) -> int:
        """A host's session begins. Returns its number: what an older session says no longer counts."""
        self._sessions += 1
        before = self.hosts.get(host.host_id)
        record = HostRecord(host, self._sessions, now)
        if before is not None:
            self._unlist(before)
            record.grants, record.report = before.grants, before.report
        self.hosts[host.host_id] = record
        self._registered_at = now
        self.catalog_version += 1
        for environment in host.environments:
            self._by_environment.setdefault(environment, {})[host.host_id] = record
            self.shelves.setdefault(environment, Shelf())
            self._remembered.pop(environment, None)
        self._refresh(record)
        return record.session

    def leave(self, host_id: str, leaving: bool) -> None:
        """A host is told to drain, or is not any more: nothing new is placed there meanwhile."""
        record = self.hosts.get(host_id)
        if record is not None and record.leaving is not leaving:
            record.leaving = leaving
            self._refresh(record)

    def report(self, record: HostRecord, report: Report, now: float) -> None:
        """Take a host's table."""
        if record.report is None or record.report.state is not report.state:
            self.catalog_version += 1
        before = {row.lease_id: row.idle for row in record.report.rows} if record.report is not None else {}
        record.steady_idle = {
            row.lease_id: steady
            for row in report.rows
            if (steady := min(row.idle, before.get(row.lease_id, 0)))
        }
        for row in report.rows:
            record.grants.pop(row.lease_id, None)
        rows = tuple(row for row in report.rows if row.in_use or row.idle)
        record.report = (
            report
            if len(rows) == len(report.rows)
            else Report(report.state, rows, report.unleased, report.lag, report.sequence)
        )
        record.heard_at = now
        record.silent = record.suspended = False
        self._refresh(record)

    def suspend(self, host_id: str, suspended: bool) -> None:
        """A host's witness says that it cannot serve now, or that it can again; so does its next report."""
        record = self.hosts.get(host_id)
        if record is not None and record.suspended is not suspended:
            record.suspended = suspended
            self._refresh(record)

    def disconnected(self, host_id: str, session: int, now: float) -> bool:
        """A session is over. A host that drained and holds nothing is gone; any other is silent, for a transport does
        not tell a goodbye from a death. Returns whether it is gone."""
        record = self.current(host_id, session)
        if record is None:
            return False
        record.connected = False
        self._refresh(record)
        report = record.report
        leaving = report is not None and report.state in (HostState.DRAINING, HostState.SEALED)
        if report is not None and leaving and not report.rows and not report.unleased:
            self._forget(record, now)
            return True
        return False

    def gone(self, host_id: str, now: float) -> bool:
        """Somebody who can tell says that a host is gone. False: it is heard, so it is not."""
        record = self.hosts.get(host_id)
        if record is None:
            return True
        if record.connected and now - record.heard_at <= self.bounds.liveness:
            return False
        self._forget(record, now)
        return True

    def current(self, host_id: str, session: int) -> HostRecord | None:
        """The record of a host, if this session is still the one that counts."""
        record = self.hosts.get(host_id)
        return record if record is not None and record.session == session else None

    # ---- what the broker promises

    def grant(self, grant: Grant) -> None:
        """Promise slots.

        Raises:
            ValueError: the host does not have them; the caller's arithmetic is wrong.
        """
        record = self.hosts[grant.host_id]
        if not 0 < grant.count <= record.free(grant.environment):
            raise ValueError(f"{grant.host_id} does not have {grant.count} slots for {grant.environment}")
        record.grants[grant.lease_id] = grant
        self._refresh(record)

    def release(self, host_id: str, lease_id: bytes) -> bool:
        """Take a promise back that was not shown yet. Returns whether there was one."""
        record = self.hosts.get(host_id)
        if record is None or record.grants.pop(lease_id, None) is None:
            return False
        self._refresh(record)
        return True

    def tick(self, now: float) -> list[Grant]:
        """Time has passed: promises that were not shown in time are taken back and returned; hosts fall silent, and
        are forgotten when they are silent for too long."""
        lapsed = []
        for record in list(self.hosts.values()):
            late = [grant for grant in record.grants.values() if grant.lapses_at <= now]
            for grant in late:
                del record.grants[grant.lease_id]
            lapsed.extend(late)
            silent = now - record.heard_at > self.bounds.liveness
            if late or silent != record.silent:
                record.silent = silent
                self._refresh(record)
            if now - record.heard_at > self.bounds.forget:
                self._forget(record, now)
        for environment, gone_at in list(self._remembered.items()):
            if now - gone_at > self.bounds.remember:
                del self._remembered[environment]
                self.catalog_version += 1
        return lapsed

    # ---- what is asked

    def state(self, record: HostRecord, now: float) -> HostState:
        """What a host is doing."""
        if now - record.heard_at > self.bounds.liveness:
            return HostState.SILENT
        return HostState.STARTING if record.report is None else record.report.state

    def shelf(self, environment: str) -> Shelf:
        """The hosts that have room for an environment."""
        return self.shelves.get(environment) or Shelf()

    def placeable(self, environment: str) -> list[HostRecord]:
        """The hosts on which an environment can be placed, full ones included."""
        return [record for record in self.serving(environment) if record.placeable]

    def of_client(self, client_id: bytes) -> dict[str, int]:
        """What a client holds on which host."""
        hosts = self._of_client.get(client_id, ()) if client_id else ()
        return {host_id: self.hosts[host_id].load.clients[client_id] for host_id in hosts}

    def serving(self, environment: str) -> Iterable[HostRecord]:
        """Every host that serves an environment, in whatever state."""
        return self._by_environment.get(environment, {}).values()

    def served(self) -> set[str]:
        """Every environment that some host serves."""
        return set(self._by_environment)

    def use(self) -> Iterable[tuple[str, int, int]]:
        """By environment, sorted: slots taken on all hosts, and the fewest that a host may have of it."""
        for environment, records in sorted(self._by_environment.items()):
            taken = sum(record.load.environments.get(environment, 0) for record in records.values())
            bounds = (r.host.environment_slots.get(environment, r.host.slots) for r in records.values())
            yield environment, taken, min(bounds)

    def staying(self) -> set[str]:
        """Every environment that some host serves and goes on to serve."""
        leaving = (HostState.DRAINING, HostState.SEALED)
        return {
            environment
            for environment, records in self._by_environment.items()
            if any(record.report is None or record.report.state not in leaving for record in records.values())
        }

    def remembered(self) -> set[str]:
        """Environments whose last host went not long ago."""
        return set(self._remembered)

    def settled(self, now: float) -> bool:
        """Whether hosts that were there before this ledger have had the time to come back."""
        if not self._settled:
            age = now - self.started_at
            quiet = now - self._registered_at >= 0.25
            self._settled = age >= self.bounds.settle and (quiet or age >= 5 * self.bounds.settle)
        return self._settled

    def last_heard(self, host_id: str) -> float | None:
        """When a host was last heard, if its session lives; None for one that is not there."""
        record = self.hosts.get(host_id)
        return record.heard_at if record is not None and record.connected else None

    def complete(self, now: float) -> bool:
        """Whether every host of the last minutes is heard, or known to be gone."""
        return self.settled(now) and all(
            record.report is not None and record.connected and now - record.heard_at <= self.bounds.liveness
            for record in self.hosts.values()
        )

    def _refresh(self, record: HostRecord) -> None:
        """Something about a host has changed: count anew, and replace its part in what is kept for all."""
        old, record.load = record.load, record.count()
        self._replace(record.host.host_id, old, record.load)
        room = None
        if record.placeable:
            lagging = record.report is not None and record.report.lag > self.bounds.lagging
            room = Room(record.free(""), record.load.used, record.host.slots, record.host.spread, lagging)
        for environment in record.host.environments:
            if room is not None and environment in record.host.environment_slots:
                bounded = Room(record.free(environment), room.used, room.slots, room.spread, room.lagging)
                self.shelves[environment].put(record.host.host_id, bounded)
            else:
                self.shelves[environment].put(record.host.host_id, room)

    def _replace(self, host_id: str, old: Load, new: Load) -> None:
        if old.tenants != new.tenants:
            for tenant in old.tenants.keys() | new.tenants.keys():
                held = self.held.get(tenant, 0) - old.tenants.get(tenant, 0) + new.tenants.get(tenant, 0)
                if held:
                    self.held[tenant] = held
                else:
                    self.held.pop(tenant, None)
        for client in old.clients.keys() - new.clients.keys():
            hosts = self._of_client[client]
            hosts.discard(host_id)
            if not hosts:
                del self._of_client[client]
        for client in new.clients.keys() - old.clients.keys():
            self._of_client.setdefault(client, set()).add(host_id)

    def _forget(self, record: HostRecord, now: float) -> None:
        del self.hosts[record.host.host_id]
        self._unlist(record)
        self.catalog_version += 1
        for environment in record.host.environments:
            if environment not in self._by_environment:
                self._remembered[environment] = now

    def _unlist(self, record: HostRecord) -> None:
        self._replace(record.host.host_id, record.load, Load())
        for environment in record.host.environments:
            self.shelves[environment].put(record.host.host_id, None)
            hosts = self._by_environment.get(environment)
            if hosts is not None:
                hosts.pop(record.host.host_id, None)
                if not hosts:
                    del self._by_environment[environment], self.shelves[environment]
