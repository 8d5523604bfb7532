"""Recalls: which leased slots to ask back for those who wait.

Three rights to ask. Between tenants: who holds more than its share gives up the excess, idle slots first, those in use
as their episodes close. Among all: a slot that stays idle goes to whoever waits. And on a host whose pool retires, of
everybody: there no slot is for another episode. The plan is made anew from the tables
each time, and says to how many slots a lease shall shrink; made twice it takes nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from envmesh_broker.fairness import Tenant, Usage, shares
from envmesh_broker.hosts import HostRecord, LeaseRow
from envmesh_broker.ledger import Ledger

__all__ = ["Recalls", "Want", "plan_recalls", "plan_retirement"]

ARRIVAL_SECONDS = 10.0
"""So long an episode on the move has to fill the slot that it was given."""

Recalls = dict[str, dict[bytes, int]]
"""By host and lease: how many slots the lease may keep."""


@dataclass(frozen=True, slots=True)
class Want:
    """Slots that somebody waits for and would be given if there were room."""

    tenant: str
    environment: str
    slots: int
    client_id: bytes = b""
    relocation: bool = False
    since: float = 0.0


@dataclass(slots=True)
class _Lease:
    """A lease that could shrink."""

    record: HostRecord
    row: LeaseRow
    keep: int

    @property
    def idle(self) -> int:
        """How many of the slots that it would keep stay idle."""
        steady = self.record.steady_idle.get(self.row.lease_id, 0)
        return max(0, steady - (self.row.in_use + self.row.idle - self.keep))


def plan_recalls(
    ledger: Ledger,
    wants: Iterable[Want],
    tenant: Callable[[str], Tenant],
    usage: Usage,
    before: Mapping[str, Mapping[bytes, int]],
) -> Recalls:
    """What to ask back. ``before`` is the plan so far: a lease that is being recalled is recalled further first, so
    that as few clients as possible are disturbed."""
    plan: Recalls = {}
    by_environment: dict[str, list[Want]] = {}

    def had(name: str, without: int) -> float:
        # As the scheduler compares tenants: what comes free must go to those for whom it was asked back.
        return usage.of(name, ledger.held.get(name, 0) - without)

    for want in wants:
        by_environment.setdefault(want.environment, []).append(want)
    for environment, waiting in by_environment.items():
        records = ledger.placeable(environment)
        free = sum(record.free(environment) for record in records)
        missing = sum(want.slots for want in waiting) - free - _kept_for_moves(ledger, environment, waiting)
        if missing <= 0:
            continue
        leases = _leases(records, plan)
        leases.sort(key=lambda lease: lease.row.lease_id not in before.get(lease.record.host.host_id, ()))
        missing -= _shrink_unfair(leases, records, waiting, free, tenant, had)
        _shrink_idle(leases, {want.client_id for want in waiting}, missing)
        for lease in leases:
            if lease.keep < lease.row.in_use + lease.row.idle:
                plan.setdefault(lease.record.host.host_id, {})[lease.row.lease_id] = lease.keep
    return plan


def plan_retirement(records: Iterable[HostRecord], now: float) -> Recalls:
    """What to ask back on hosts that retire: every slot, so that idle ones come back now and those in use as their
    episodes close. A lease of episodes on the move is let be while they may still arrive in it."""
    return {
        record.host.host_id: {
            row.lease_id: 0
            for row in record.report.rows
            if now - record.arriving.get(row.lease_id, -math.inf) > ARRIVAL_SECONDS
        }
        for record in records
        if record.report is not None and record.report.rows
    }


def _kept_for_moves(ledger: Ledger, environment: str, waiting: Iterable[Want]) -> int:
    """Slots on retiring hosts that go to those who wait: to episodes on the move only."""
    moving = sum(want.slots for want in waiting if want.relocation)
    if not moving:
        return 0
    records = ledger.placeable(environment, relocation=True)
    return min(moving, sum(record.free(environment) for record in records if record.retiring))


def _leases(records: Iterable[HostRecord], plan: Recalls) -> list[_Lease]:
    return [
        _Lease(record, row, plan.get(record.host.host_id, {}).get(row.lease_id, row.in_use + row.idle))
        for record in records
        if record.report is not None
        for row in record.report.rows
    ]


def _shrink_unfair(
    leases: list[_Lease],
    records: list[HostRecord],
    waiting: list[Want],
    free: int,
    tenant: Callable[[str], Tenant],
    had: Callable[[str, int], float],
) -> int:
    """Take from tenants above their share for those below theirs. ``had`` says what a tenant has had, but for so many
    of the slots that it holds. Returns how many slots will come."""
    held: dict[str, int] = {}
    for record in records:
        for name, slots in record.load.tenants.items():
            held[name] = held.get(name, 0) + slots
    wanted: dict[str, int] = {}
    for want in waiting:
        wanted[want.tenant] = wanted.get(want.tenant, 0) + want.slots
    capacity = sum(record.host.slots for record in records)
    demand = {name: held.get(name, 0) + wanted.get(name, 0) for name in held.keys() | wanted.keys()}
    weights = {name: tenant(name).weight for name in demand}
    entitled = shares(capacity, demand, weights, {name: had(name, held.get(name, 0)) for name in demand})
    due = sum(max(0, min(slots, entitled.get(name, 0) - held.get(name, 0))) for name, slots in wanted.items())
    need = max(0, due - free)
    came = 0
    for name in sorted(held, key=lambda name: held[name] - entitled.get(name, 0), reverse=True):
        excess = min(held[name] - entitled.get(name, 0), need - came)
        mine = [lease for lease in leases if lease.row.tenant == name]
        mine.sort(key=lambda lease: lease.row.idle == 0)
        for lease in mine:
            taken = min(lease.keep, excess)
            if taken > 0:
                lease.keep -= taken
                excess -= taken
                came += taken
    return came


def _shrink_idle(leases: list[_Lease], askers: set[bytes], missing: int) -> None:
    """Take slots that stay idle, but not from those who ask."""
    for lease in leases:
        if missing <= 0:
            return
        if lease.row.client_id not in askers:
            taken = min(lease.idle, lease.keep, missing)
            lease.keep -= taken
            missing -= taken
