"""The host's slots: which leases hold them, and which of them are in use (pure).

Numbers are always counted from what is there: a holding knows its episodes, the table knows its holdings. Nothing is
added and subtracted on the side, so nothing can drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from envmesh.errors import Refusal

__all__ = ["Claim", "Holding", "SlotTable"]

REMEMBERED_SECONDS = 30.0
"""How long a lease that has ended is remembered at least, from when it came here; longer where its token could still be
shown as a new one."""

MOST_REMEMBERED = 100_000
"""So many leases that have ended are remembered; beyond, the first of them is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a lease says: who may use how many slots for what. ``token_seconds`` is for how long its token could be
    shown as a new one."""

    lease_id: bytes
    tenant: str
    environment: str
    count: int
    client_id: bytes = b""
    relocation: bool = False
    token_seconds: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Holding:
    """A lease that was shown here, or granted, at ``since``: ``count`` slots, of which ``episodes`` are in use.

    ``recalled`` slots go back as their episodes close. A provisional holding was granted but not shown yet; it lapses
    at ``lapses_at``. It is remembered until ``remembered_until`` when it has ended.
    """

    lease_id: bytes
    tenant: str
    environment: str
    client_id: bytes
    count: int
    since: float
    idle_since: float
    remembered_until: float
    lapses_at: float | None = None
    recalled: int = 0
    unleased: bool = False
    episodes: set[bytes] = field(default_factory=set)

    @property
    def in_use(self) -> int:
        """Slots with an episode in them."""
        return len(self.episodes)

    @property
    def idle(self) -> int:
        """Slots without."""
        return self.count - len(self.episodes)


class SlotTable:
    """All slots of a host. ``bounds`` limits single environments (by ``name@version``) further."""

    def __init__(self, slots: int, bounds: dict[str, int] | None = None):
        self.slots = slots
        self.bounds = bounds or {}
        self.stuck = 0
        self.ended: list[Holding] = []
        self._holdings: dict[bytes, Holding] = {}
        self._over: dict[bytes, float] = {}
        """Leases that have ended, and until when they are remembered."""

    def __iter__(self) -> Iterator[Holding]:
        return iter(self._holdings.values())

    def take_ended(self) -> list[Holding]:
        """The leases that have ended since the last call."""
        ended, self.ended = self.ended, []
        return ended

    @property
    def held(self) -> int:
        """Slots that are not free: leased (in use or idle), granted, or stuck."""
        return sum(holding.count for holding in self._holdings.values()) + self.stuck

    @property
    def in_use(self) -> int:
        """Slots with an episode in them."""
        return sum(holding.in_use for holding in self._holdings.values())

    def free(self, environment: str) -> int:
        """How many slots a new lease for this environment could have."""
        free = self.slots - self.held
        bound = self.bounds.get(environment)
        if bound is not None:
            used = sum(h.count for h in self._holdings.values() if h.environment == environment)
            free = min(free, bound - used)
        return max(0, free)

    def holding(self, lease_id: bytes) -> Holding | None:
        """The holding of this lease, if it is here."""
        return self._holdings.get(lease_id)

    def grant(self, claim: Claim, now: float, lapses_at: float) -> Holding:
        """Set slots aside for a lease that its client has yet to show (a host that places for itself).

        Raises:
            Refusal: NO_CAPACITY.
        """
        self._require(claim, "NO_CAPACITY")
        return self._add(claim, now, lapses_at)

    def show(self, claim: Claim, now: float) -> Holding:
        """A client shows its lease: from now on the host keeps it. Showing it again changes nothing while it is kept.

        Raises:
            Refusal: LEASE_INVALID when it has ended, SLOT_TAKEN when others were first.
        """
        holding = self._holdings.get(claim.lease_id)
        if holding is not None:
            holding.lapses_at = None
            return holding
        if claim.lease_id in self._over:
            raise _ended()
        self._require(claim, "SLOT_TAKEN")
        return self._add(claim, now, None)

    def take(self, holding: Holding, episode_id: bytes) -> None:
        """Put an episode into an idle slot of a holding.

        Raises:
            Refusal: NO_CAPACITY when all its slots are in use, LEASE_INVALID when it was taken back.
        """
        if self._holdings.get(holding.lease_id) is not holding:
            raise _ended()
        if episode_id not in holding.episodes and holding.idle < 1:
            raise Refusal(f"all {holding.count} slots of the lease are in use", reason="NO_CAPACITY")
        holding.episodes.add(episode_id)

    def leave(self, holding: Holding, episode_id: bytes, now: float) -> int:
        """An episode closed. Returns how many slots went back at once, for they were recalled."""
        holding.episodes.discard(episode_id)
        holding.idle_since = now
        back = min(holding.recalled, holding.idle)
        if holding.unleased:
            back = holding.idle
        return self._shrink(holding, back) if back else 0

    def give_back(self, holding: Holding, count: int) -> int:
        """Give back idle slots, all of them for 0. Returns how many went."""
        return self._shrink(holding, min(count or holding.idle, holding.idle))

    def recall(self, keep: Mapping[bytes, int]) -> list[tuple[Holding, int]]:
        """The broker wants leases to shrink to so many slots: idle ones go at once, others as their episodes close.
        The whole list: a lease that is not in it is not recalled any more. Returns (holding, slots that went)."""
        back = []
        for holding in list(self._holdings.values()):
            holding.recalled = max(0, holding.count - keep.get(holding.lease_id, holding.count))
            count = min(holding.recalled, holding.idle)
            if count:
                back.append((holding, self._shrink(holding, count)))
        return back

    def lapse(self, now: float, idle_after: float) -> list[tuple[Holding, int]]:
        """Give back what was granted and never shown, and what has been idle for too long: (holding, slots)."""
        lapsed = []
        for holding in list(self._holdings.values()):
            never_shown = holding.lapses_at is not None and now >= holding.lapses_at
            too_idle = holding.lapses_at is None and holding.idle and now - holding.idle_since >= idle_after
            if never_shown or too_idle:
                lapsed.append((holding, self._shrink(holding, holding.idle)))
        self._over = {lease: until for lease, until in self._over.items() if now < until}
        return lapsed

    def _require(self, claim: Claim, reason: str) -> None:
        free = self.free(claim.environment)
        if claim.count > free:
            raise Refusal(
                f"{claim.count} slots for {claim.environment} were asked of this host; {free} are free",
                reason=reason,
            )

    def _add(self, claim: Claim, now: float, lapses_at: float | None) -> Holding:
        holding = Holding(
            lease_id=claim.lease_id,
            tenant=claim.tenant,
            environment=claim.environment,
            client_id=claim.client_id,
            count=claim.count,
            since=now,
            idle_since=now,
            remembered_until=now + max(REMEMBERED_SECONDS, claim.token_seconds),
            lapses_at=lapses_at,
        )
        self._holdings[claim.lease_id] = holding
        return holding

    def _shrink(self, holding: Holding, count: int) -> int:
        holding.count -= count
        holding.recalled = max(0, holding.recalled - count)
        if holding.count == 0:
            self._holdings.pop(holding.lease_id, None)
            self.ended.append(holding)
            if not holding.unleased:  # of those there is no token
                self._over[holding.lease_id] = holding.remembered_until
                if len(self._over) > MOST_REMEMBERED:
                    del self._over[next(iter(self._over))]
        return count


def _ended() -> Refusal:
    return Refusal("the lease was given back or taken back", reason="LEASE_INVALID")
