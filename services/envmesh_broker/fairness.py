"""Fairness between tenants: who has had how much, and what each may have when all want more than there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from envmesh_broker.ledger import Ledger
from envmesh_service.tenants import Tenant

__all__ = ["HORIZON", "Quotas", "Tenant", "Usage", "shares"]

HORIZON = 60.0
"""Seconds for which a slot is expected to be held, when tenants are compared."""


class Usage:
    """Slot-seconds by tenant. What was used long ago counts less: half of it after each half-life, in seconds."""

    def __init__(self, now: float, half_life: float = 600.0) -> None:
        self._half_life = half_life
        self._at = now
        self._used: dict[str, float] = {}

    def advance(self, held: Mapping[str, int], now: float) -> None:
        """Let time pass while tenants hold slots."""
        elapsed = now - self._at
        if elapsed <= 0:
            return
        self._at = now
        decay = 0.5 ** (elapsed / self._half_life)
        lived = (
            (1.0 - decay) * self._half_life / math.log(2)
        )  # slot-seconds that one slot leaves, decayed in passing
        self._used = {
            tenant: used
            for tenant in self._used.keys() | held.keys()
            if (used := self._used.get(tenant, 0.0) * decay + held.get(tenant, 0) * lived) > 1e-3
        }

    def of(self, tenant: str, held: int = 0) -> float:
        """What a tenant has used, in slot-seconds, and will use of the slots that it holds."""
        return self._used.get(tenant, 0.0) + held * HORIZON


class Quotas:
    """How many slots tenants may take, where they have a quota.

    An episode that moves is there twice for a while, and on hosts that are not heard it is not there at all. Where its
    new host turns out to be of no use, for it cannot be reached or is full, what was promised there counts for as long
    as it may be shown, and the episode cannot wait for that: its old host drains. So episodes on the move may take what
    is held on the hosts that are heard to three times the quota. Whoever calls everything a relocation comes no further
    than that.
    """

    def __init__(self, ledger: Ledger, tenant: Callable[[str], Tenant]) -> None:
        self._ledger, self._tenant = ledger, tenant
        self._before: dict[str, int] = {}

    def most(self, name: str, *, relocation: bool = False) -> int | None:
        """How many slots a tenant may have taken; None: no bound."""
        quota = self._tenant(name).quota
        if not quota:
            return None
        return 3 * max(quota, self._before.get(name, 0)) if relocation else quota

    def taken(self, name: str, *, relocation: bool = False) -> int:
        """How many of them are taken: under lease, promised, or of a promise that came back and may still be shown."""
        ledger = self._ledger
        away = ledger.away.get(name, 0) if relocation else 0
        return ledger.held.get(name, 0) + ledger.returned.slots.get(name, 0) - away

    def room(self, name: str, *, relocation: bool = False) -> int | None:
        """How many more a tenant may take; None: no bound."""
        most = self.most(name, relocation=relocation)
        return None if most is None else max(0, most - self.taken(name, relocation=relocation))

    def look(self) -> None:
        """Quotas are lowered while tenants hold slots, and their episodes must move on all the same. For one that holds
        more than they could move by then, what its quota was is kept; where that is not known, what it holds."""
        before = {}
        for name, held in self._ledger.held.items():
            if quota := self._tenant(name).quota:
                before[name] = quota if held <= 2 * quota else max(quota, self._before.get(name, held))
        self._before = before


def shares(
    capacity: int, demand: Mapping[str, int], weights: Mapping[str, float], had: Mapping[str, float]
) -> dict[str, int]:
    """What each tenant may have of ``capacity`` slots: by weight, none more than it wants, nothing left over while
    somebody wants more.

    Fractions are cut off, and the slots that this leaves go to those who have ``had`` the least for their weight, in
    slot-seconds, one each. So they go round: a tenant whose share is less than a slot has its turn too.
    """
    entitled: dict[str, int] = {}
    left = float(capacity)
    open_ = {tenant: wanted for tenant, wanted in demand.items() if wanted > 0}
    while open_:
        total = sum(weights.get(tenant, 1.0) for tenant in open_)
        unit = left / total
        modest = {t: wanted for t, wanted in open_.items() if wanted <= unit * weights.get(t, 1.0) + 1e-9}
        if not modest:
            entitled |= {tenant: int(unit * weights.get(tenant, 1.0) + 1e-9) for tenant in open_}
            break
        for tenant, wanted in modest.items():
            entitled[tenant] = wanted
            left -= wanted
            del open_[tenant]

    def standing(tenant: str) -> tuple[float, str]:
        used = had.get(tenant, 0.0) + entitled[tenant] * HORIZON
        return used / weights.get(tenant, 1.0), tenant

    for tenant in sorted(open_, key=standing)[: capacity - sum(entitled.values())]:
        entitled[tenant] += 1
    return entitled
