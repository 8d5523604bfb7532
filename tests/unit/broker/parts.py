"""Hosts and requests in a line, for tables and properties."""

import itertools

from envmesh_broker.core import Core, CoreBounds
from envmesh_broker.fairness import Tenant
from envmesh_broker.hosts import Host, HostState, LeaseRow, Report
from envmesh_broker.ledger import LedgerBounds

BOUNDS = CoreBounds(ledger=LedgerBounds(settle=0.0))


class World:
    """A core and the hosts it hears, which keep what they were shown. Time stands still unless it is moved."""

    def __init__(self, *, bounds: CoreBounds = BOUNDS, pools=(), **tenants: Tenant):
        ids = itertools.count(1)
        self.tenants = tenants
        self.now = 1000.0
        self.core = Core(
            self.now,
            new_id=lambda: next(ids).to_bytes(16, "big"),
            tenant=lambda name: self.tenants.get(name, Tenant(name)),
            pools=pools,
            bounds=bounds,
        )
        self.now += 1.0
        self.sessions: dict[str, int] = {}
        self.states: dict[str, HostState] = {}
        self.tables: dict[str, dict[bytes, LeaseRow]] = {}
        self.lags: dict[str, float] = {}

    def host(self, host_id: str, slots: int = 8, environments=("e@1",), **fields) -> None:
        host = Host(
            host_id=host_id,
            pool=fields.pop("pool", "p"),
            address=f"{host_id}:1",
            slots=slots,
            environments=tuple(environments),
            **fields,
        )
        self.sessions[host_id] = self.core.register(host, self.now)
        self.tables.setdefault(host_id, {})
        self.states.setdefault(host_id, HostState.READY)
        self.report(host_id)

    def report(self, host_id: str):
        report = Report(
            self.states[host_id], tuple(self.tables[host_id].values()), lag=self.lags.get(host_id, 0.0)
        )
        return self.core.report(host_id, self.sessions[host_id], report, self.now)

    def report_all(self) -> None:
        for host_id in self.sessions:
            self.report(host_id)

    def ask(self, count: int, tenant: str = "t", environment: str = "e", **wishes):
        return self.core.ask(self.now, tenant, environment, count, **wishes)

    def decide(self):
        return self.core.decide(self.now)

    def granted(self) -> dict[int, int]:
        """Slots by request, of one pass."""
        return {d.arrival: sum(grant.count for grant in d.grants) for d in self.decide()}

    def show(self, grant, *, in_use: bool = True) -> bool:
        """A client shows a lease to its host, which takes it if it has room."""
        table = self.tables[grant.host_id]
        slots = self.core.ledger.hosts[grant.host_id].host.slots
        if sum(row.in_use + row.idle for row in table.values()) + grant.count > slots:
            return False
        used, idle = (grant.count, 0) if in_use else (0, grant.count)
        table[grant.lease_id] = LeaseRow(
            grant.lease_id, grant.tenant, grant.environment, used, idle, grant.client_id
        )
        return True

    def take(self, count: int, *, idle: bool = False, **wishes):
        """Ask, be granted, show: the grants."""
        self.ask(count, **wishes)
        grants = [grant for decision in self.decide() for grant in decision.grants]
        for grant in grants:
            assert self.show(grant, in_use=not idle)
        self.report_all()
        return grants
