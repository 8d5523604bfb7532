"""What the broker knows of one host: who it is, what it reports, and what it was promised."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Grant", "Host", "HostRecord", "HostState", "LeaseRow", "Load", "Report"]


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
    away: Mapping[str, int] = field(default_factory=dict)
    """``tenants`` again, where the host is not heard."""

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
    retiring: bool = False
    """Its pool is on its way out: only what has run already is placed here."""
    report: Report | None = None
    grants: dict[bytes, Grant] = field(default_factory=dict)
    load: Load = field(default_factory=Load)
    steady_idle: dict[bytes, int] = field(default_factory=dict)
    """Slots by lease that were idle in this report and in the one before."""
    arriving: dict[bytes, float] = field(default_factory=dict)
    """Leases granted to episodes on the move which have not filled them yet, and when they were shown."""

    @property
    def heard(self) -> bool:
        """Whether it is there, as far as can be told."""
        return self.connected and not self.silent and not self.suspended

    @property
    def placeable(self) -> bool:
        """Whether it takes leases; a retiring one only of episodes on the move."""
        report = self.report
        there = self.heard and not self.leaving
        return there and report is not None and report.state is HostState.READY

    @property
    def stays(self) -> bool:
        """Whether it is to go on serving."""
        leaving = (HostState.DRAINING, HostState.SEALED)
        return not self.retiring and (self.report is None or self.report.state not in leaving)

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
        if not self.heard:
            load.away = load.tenants
        return load

    def free(self, environment: str) -> int:
        """How many more slots it has for an environment; never below 0, however much it holds."""
        free = self.host.slots - self.load.used
        bound = self.host.environment_slots.get(environment)
        if bound is not None:
            free = min(free, bound - self.load.environments.get(environment, 0))
        return max(free, 0)
