"""Reservations: how many slots clients will hold from some time on, so that there are hosts by then (pure).

A reservation says a total, and grants nothing: what of it is missing is counted anew each time, from what its client
holds and waits for. Whoever repeats it changes nothing, and a new broker learns it from the next repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Missing", "Reservation", "Reservations"]

MOST = 10_000
MOST_OF_TENANT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What a client will hold. Times on the broker's clock, in seconds."""

    reservation_id: bytes
    tenant: str
    environment: str
    slots: int
    client_id: bytes
    starts_at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class Missing:
    """Slots that are reserved, and neither held nor waited for. ``starts_in`` is in seconds, 0 at the least."""

    environment: str
    slots: int
    starts_in: float


class Reservations:
    """Everything that is reserved."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, bytes], Reservation] = {}

    def put(self, reservation: Reservation, now: float) -> bool:
        """Note one, in the place of what had its id. False: there are too many already."""
        self._forget_those_over(now)
        key = reservation.tenant, reservation.reservation_id
        if not reservation.slots:
            self._kept.pop(key, None)
            return True
        of_tenant = sum(tenant == reservation.tenant for tenant, _ in self._kept)
        if key not in self._kept and (len(self._kept) >= MOST or of_tenant >= MOST_OF_TENANT):
            return False
        self._kept[key] = reservation
        return True

    def missing(
        self,
        now: float,
        meaning: Callable[[str], str | None],
        taken: Mapping[tuple[bytes, str], int],
        room: Callable[[str], int | None],
    ) -> Iterator[Missing]:
        """What is missing, soonest first. ``taken`` says by client and environment what is held and waited for;
        ``room`` how many slots a tenant may still take, None: no bound."""
        left = {}
        self._forget_those_over(now)
        for kept in sorted(self._kept.values(), key=lambda kept: kept.starts_at):
            environment = meaning(kept.environment) or kept.environment
            if kept.tenant not in left:
                left[kept.tenant] = room(kept.tenant)
            slots = max(0, kept.slots - taken.get((kept.client_id, environment), 0))
            bound = left[kept.tenant]
            if bound is not None:
                slots = min(slots, bound)
                left[kept.tenant] = bound - slots
            if slots:
                yield Missing(environment, slots, max(0.0, kept.starts_at - now))

    def _forget_those_over(self, now: float) -> None:
        self._kept = {key: kept for key, kept in self._kept.items() if kept.ends_at > now}
