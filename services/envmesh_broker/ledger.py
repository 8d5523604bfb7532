"""The ledger: who is there, who holds which slots, and what has been promised and not yet shown.

Hosts are the truth. What a host reports replaces what was known of it, and its load is counted anew from that table
and from the grants it has not been shown yet. What is kept for all hosts together (slots by tenant, the shelves of
placement) is made of these counts, a host's part replaced whole. Time is an argument, in seconds of one monotonic
clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from envmesh_broker.hosts import Grant, Host, HostRecord, HostState, Load, Report
from envmesh_broker.placement import Room, Shelf, Shelves

__all__ = ["Ledger", "LedgerBounds", "Returned"]


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
    leeway: float = 5.0
    """So long after a promise has lapsed its host may still take it, for clocks differ."""


@dataclass(slots=True)
class Returned:
    """Promises that were taken back from clients who have the token, for as long as a host would still take it: it may
    be shown all the same. Counted against quotas, and nowhere else."""

    slots: dict[str, int] = field(default_factory=dict)
    """By tenant."""
    _until: dict[bytes, tuple[Grant, float]] = field(default_factory=dict)

    def add(self, grant: Grant, until: float) -> None:
        """A promise was taken back; its token counts until then."""
        self._until[grant.lease_id] = grant, until
        self.slots[grant.tenant] = self.slots.get(grant.tenant, 0) + grant.count

    def drop(self, lease_id: bytes) -> None:
        """It was shown, and is in its host's table now; or it can be shown no more."""
        if (kept := self._until.pop(lease_id, None)) is not None:
            grant, _ = kept
            self.slots[grant.tenant] -= grant.count
            if not self.slots[grant.tenant]:
                del self.slots[grant.tenant]

    def tick(self, now: float) -> None:
        """Time has passed."""
        for lease_id in [lease_id for lease_id, (_, until) in self._until.items() if until <= now]:
            self.drop(lease_id)


class Ledger:
    """Hosts, leases and grants."""

    def __init__(self, now: float, bounds: LedgerBounds = LedgerBounds()) -> None:
        self.bounds = bounds
        self.started_at = now
        self.hosts: dict[str, HostRecord] = {}
        self.held: dict[str, int] = {}
        """Slots by tenant: under lease and promised."""
        self.away: dict[str, int] = {}
        """Those of them that are on hosts which are not heard now."""
        self.returned = Returned()
        self._open, self._retiring = Shelves(), Shelves()
        self._retiring_pools: frozenset[str] = frozenset()
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
        record = HostRecord(host, self._sessions, now, retiring=host.pool in self._retiring_pools)
        if before is not None:
            self._unlist(before)
            record.grants, record.report, record.arriving = before.grants, before.report, before.arriving
            record.leaving = before.leaving
        self.hosts[host.host_id] = record
        self._registered_at = now
        self.catalog_version += 1
        for environment in host.environments:
            self._by_environment.setdefault(environment, {})[host.host_id] = record
            self._remembered.pop(environment, None)
        self._refresh(record)
        return record.session

    def retire(self, pools: frozenset[str]) -> None:
        """These pools, and no others, are on their way out."""
        self._retiring_pools = pools
        self.catalog_version += 1
        for record in self.hosts.values():
            if record.retiring is not (record.host.pool in pools):
                record.retiring = not record.retiring
                self._refresh(record)

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
        arriving, record.arriving = record.arriving, {}
        for row in report.rows:
            shown = record.grants.pop(row.lease_id, None)
            self.returned.drop(row.lease_id)
            if row.idle and ((shown is not None and shown.relocation) or row.lease_id in arriving):
                record.arriving[row.lease_id] = arriving.get(row.lease_id, now)
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
        record.silent = True  # it said no goodbye, and so took what it held along
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

    def release(self, host_id: str, lease_id: bytes, *, told: bool = False) -> bool:
        """Take a promise back that was not shown yet; ``told``: its client has the token. Returns whether there was
        one."""
        record = self.hosts.get(host_id)
        grant = record.grants.pop(lease_id, None) if record is not None else None
        if record is None or grant is None:
            return False
        if told:
            self.returned.add(grant, grant.lapses_at + self.bounds.leeway)
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
                self.returned.add(grant, grant.lapses_at + self.bounds.leeway)
            lapsed.extend(late)
            silent = now - record.heard_at > self.bounds.liveness
            if late or silent != record.silent:
                record.silent = silent
                self._refresh(record)
            if now - record.heard_at > self.bounds.forget:
                self._forget(record, now)
        self.returned.tick(now)
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

    def shelves(self, environment: str, *, relocation: bool = False) -> tuple[Shelf, ...]:
        """The hosts that have room for an environment. An episode on the move goes to a retiring one last."""
        return (self._open.of(environment), *((self._retiring.of(environment),) if relocation else ()))

    def placeable(self, environment: str, *, relocation: bool = False) -> list[HostRecord]:
        """The hosts on which an environment can be placed, full ones included."""
        records = (record for record in self.serving(environment) if record.placeable)
        return [record for record in records if relocation or not record.retiring]

    def retiring(self) -> list[HostRecord]:
        """The hosts of the pools that are on their way out."""
        return [record for record in self.hosts.values() if record.retiring] if self._retiring_pools else []

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
        return {
            environment
            for environment, records in self._by_environment.items()
            if any(record.stays for record in records.values())
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
        shelves, others = (self._retiring, self._open) if record.retiring else (self._open, self._retiring)
        for environment in record.host.environments:
            others.put(environment, record.host.host_id, None)
            if room is not None and environment in record.host.environment_slots:
                bounded = Room(record.free(environment), room.used, room.slots, room.spread, room.lagging)
                shelves.put(environment, record.host.host_id, bounded)
            else:
                shelves.put(environment, record.host.host_id, room)

    def _replace(self, host_id: str, old: Load, new: Load) -> None:
        _shift(self.held, old.tenants, new.tenants)
        _shift(self.away, old.away, new.away)
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
            for shelves in (self._open, self._retiring):
                shelves.put(environment, record.host.host_id, None)
            hosts = self._by_environment.get(environment)
            if hosts is not None:
                hosts.pop(record.host.host_id, None)
                if not hosts:
                    del self._by_environment[environment]


def _shift(total: dict[str, int], old: Mapping[str, int], new: Mapping[str, int]) -> None:
    """Replace one host's part in what is counted by tenant for all hosts together."""
    if old != new:
        for tenant in old.keys() | new.keys():
            slots = total.get(tenant, 0) - old.get(tenant, 0) + new.get(tenant, 0)
            if slots:
                total[tenant] = slots
            else:
                total.pop(tenant, None)
