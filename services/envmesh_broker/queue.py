"""The queue: who waits, in which order within a tenant, and how long it may get.

A lane holds the waiting requests of one tenant for one environment, in the order in which they are to be served;
relocations have lanes of their own, which belong to no tenant. The order between tenants is the scheduler's.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["Depth", "Lane", "Queue", "QueueBounds", "Request", "Waiting"]

Rank = tuple[bool, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asks for. ``whole`` is a gang: everything at once or nothing. ``immediate``: only what is free
    now. ``arrival`` numbers all requests."""

    arrival: int
    tenant: str
    environment: str
    count: int
    entered_at: float
    whole: bool = False
    group_size: int = 1
    priority: int = 0
    client_id: bytes = b""
    relocation: bool = False
    retried: bool = False
    immediate: bool = False
    avoid: frozenset[str] = frozenset()

    @property
    def least(self) -> int:
        """The fewest slots that it takes at a time: all of a gang, or one group."""
        return self.count if self.whole else self.group_size

    @property
    def rank(self) -> Rank:
        """The order within a lane."""
        return (not self.retried, -self.priority, self.arrival)


@dataclass(slots=True)
class Waiting:
    """A request in the queue, what of it is still to come, and the name@version that it means now."""

    request: Request
    remaining: int
    environment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBounds:
    """How many requests may wait, in all and of one tenant."""

    requests: int = 10_000
    tenant_requests: int = 5_000


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits in a lane, or in several."""

    requests: int
    slots: int
    oldest_at: float


@dataclass(slots=True)
class Lane:
    """Waiting requests in order. ``tenant`` is None for relocations."""

    tenant: str | None
    environment: str
    waiting: list[Waiting] = field(default_factory=list)

    def depth(self) -> Depth:
        """What waits here."""
        return Depth(
            len(self.waiting),
            sum(waiting.remaining for waiting in self.waiting),
            min(waiting.request.entered_at for waiting in self.waiting),
        )


def _lane_key(waiting: Waiting) -> tuple[str | None, str]:
    return (None if waiting.request.relocation else waiting.request.tenant, waiting.environment)


def _rank(waiting: Waiting) -> Rank:
    return waiting.request.rank


class Queue:
    """Everything that waits."""

    def __init__(self, bounds: QueueBounds = QueueBounds()) -> None:
        self.bounds = bounds
        self._lanes: dict[tuple[str | None, str], Lane] = {}
        self._waiting: dict[int, Waiting] = {}
        self._of_tenant: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def room_for(self, tenant: str) -> bool:
        """Whether one more request of this tenant may wait."""
        return len(self) < self.bounds.requests and self.of_tenant(tenant) < self.bounds.tenant_requests

    def of_tenant(self, tenant: str) -> int:
        """How many requests of a tenant wait."""
        return len(self._of_tenant.get(tenant, ()))

    def add(self, request: Request, environment: str) -> Waiting:
        """Let a request wait. ``environment`` is what its name means now."""
        waiting = Waiting(request, request.count, environment)
        self._waiting[request.arrival] = waiting
        self._of_tenant.setdefault(request.tenant, set()).add(request.arrival)
        self._enter(waiting)
        return waiting

    def remove(self, arrival: int) -> Waiting | None:
        """Take a request out: it is complete, or was given up. None: it did not wait."""
        waiting = self._waiting.pop(arrival, None)
        if waiting is None:
            return None
        lane = self._lanes[_lane_key(waiting)]
        del lane.waiting[bisect_left(lane.waiting, waiting.request.rank, key=_rank)]
        if not lane.waiting:
            del self._lanes[_lane_key(waiting)]
        of_tenant = self._of_tenant[waiting.request.tenant]
        of_tenant.discard(arrival)
        if not of_tenant:
            del self._of_tenant[waiting.request.tenant]
        return waiting

    def rename(self, meaning: Callable[[str], str]) -> None:
        """Other environments are served than before: what does each request's name mean now?"""
        self._lanes.clear()
        for waiting in self._waiting.values():
            waiting.environment = meaning(waiting.request.environment)
            self._enter(waiting)

    def _enter(self, waiting: Waiting) -> None:
        key = _lane_key(waiting)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(*key)
        insort(lane.waiting, waiting, key=_rank)

    def get(self, arrival: int) -> Waiting | None:
        """A waiting request."""
        return self._waiting.get(arrival)

    def lanes(self) -> Iterable[Lane]:
        """Every lane; none is empty."""
        return self._lanes.values()

    def tenants(self) -> Iterable[str]:
        """Every tenant that waits."""
        return self._of_tenant.keys()

    def all(self) -> Iterator[Waiting]:
        """Everything that waits, in no order."""
        return iter(self._waiting.values())

    def position(self, waiting: Waiting, weights: Mapping[str, float]) -> int:
        """How many requests go before this one, as far as can be told.

        Exact among relocations and within a tenant. Between tenants it is what their weights lead one to expect: the
        real order depends on what they use while they wait.
        """
        request = waiting.request
        relocations = self._lanes.get((None, waiting.environment))
        if request.relocation:
            return bisect_left(relocations.waiting, request.rank, key=_rank) if relocations else 0
        ahead = len(relocations.waiting) if relocations else 0
        own = self._lanes[request.tenant, waiting.environment]
        index = bisect_left(own.waiting, request.rank, key=_rank)
        weight = weights.get(request.tenant, 1.0)
        for lane in self._lanes.values():
            if lane.environment == waiting.environment and lane.tenant not in (None, request.tenant):
                expected = (index + 1) * weights.get(lane.tenant or "", 1.0) / weight
                older = lane.waiting[0].request.arrival < own.waiting[0].request.arrival
                ahead += min(len(lane.waiting), int(expected) if older else max(0, int(expected) - 1))
        return ahead + index
