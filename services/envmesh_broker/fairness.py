"""Fairness between tenants: who has had how much, and what each may have when all want more than there is."""

from __future__ import annotations

import math
from collections.abc import Mapping

from envmesh_service.tenants import Tenant

__all__ = ["HORIZON", "Tenant", "Usage", "shares"]

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
