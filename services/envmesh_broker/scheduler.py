"""The scheduler: one pass over the queue that gives out what is free.

The order is: relocations, by arrival, as far as their tenants' quotas let episodes be there twice; then tenants, the
one first that has had the least for its weight (slot-seconds so far, and what it holds now as if for ``HORIZON``
seconds more); within a tenant retried requests, priority, arrival. While several tenants want the same slots each is
served in small portions, so that they come out even.

A gang that does not fit is overtaken for ``patience`` seconds at most. Then every host that it could use is kept for
it: what comes free there collects until the gang fits, and nobody behind it starves it. Where its tenant's quota holds
it back, what comes free of that is kept for it likewise.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from envmesh_broker.fairness import HORIZON, Quotas, Tenant, Usage
from envmesh_broker.hosts import Grant
from envmesh_broker.ledger import Ledger
from envmesh_broker.queue import Lane, Queue, Waiting

__all__ = ["Decision", "SchedulerBounds", "schedule"]

_PORTIONS = 64
"""A pass gives a tenant at least one in so many of the free slots at a time."""

_LOOK_AHEAD = 64
"""So many requests of a tenant that cannot be placed are passed over in one pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerBounds:
    """How a pass decides. Times in seconds."""

    validity: float = 10.0
    """A grant lapses when it was not shown for so long."""
    patience: float = 2.0
    """So long a gang at the head of the queue may be overtaken."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Grants for one request, and how many of its slots are still to come; at 0 it has left the queue."""

    arrival: int
    grants: tuple[Grant, ...]
    remaining: int


def schedule(
    queue: Queue,
    ledger: Ledger,
    usage: Usage,
    quotas: Quotas,
    tenant: Callable[[str], Tenant],
    new_id: Callable[[], bytes],
    now: float,
    bounds: SchedulerBounds = SchedulerBounds(),
) -> list[Decision]:
    """Give out what is free. Grants are entered in the ledger, complete requests leave the queue."""
    return _Pass(queue, ledger, usage, quotas, tenant, new_id, now, bounds).run()


@dataclass(slots=True)
class _Cursor:
    """How far one lane has been gone through."""

    lane: Lane
    entries: list[Waiting]
    index: int = 0


@dataclass(slots=True)
class _Line:
    """What one tenant (or all relocations) has waiting, in order, during one pass."""

    tenant: str | None
    cursors: list[_Cursor] = field(default_factory=list)
    passed_over: int = 0

    def head(self) -> _Cursor | None:
        if self.passed_over > _LOOK_AHEAD:
            return None
        return min(
            (cursor for cursor in self.cursors if cursor.index < len(cursor.entries)),
            key=lambda cursor: cursor.entries[cursor.index].request.rank,
            default=None,
        )


class _Pass:
    def __init__(
        self,
        queue: Queue,
        ledger: Ledger,
        usage: Usage,
        quotas: Quotas,
        tenant: Callable[[str], Tenant],
        new_id: Callable[[], bytes],
        now: float,
        bounds: SchedulerBounds,
    ) -> None:
        self._queue, self._ledger, self._usage, self._quotas = queue, ledger, usage, quotas
        self._tenant, self._new_id, self._now, self._bounds = tenant, new_id, now, bounds
        self._kept: set[str] = set()
        self._given: dict[int, tuple[Waiting, dict[str, Grant]]] = {}

    def run(self) -> list[Decision]:
        lines: dict[str | None, _Line] = {}
        for lane in self._queue.lanes():
            if self._free(lane):
                line = lines.setdefault(lane.tenant, _Line(lane.tenant))
                line.cursors.append(_Cursor(lane, self._entries(lane)))
        relocations = lines.pop(None, None)
        if relocations is not None:
            while (cursor := relocations.head()) is not None:
                self._serve(relocations, cursor, None)
        self._share(list(lines.values()))
        decisions = []
        for arrival, (waiting, grants) in self._given.items():
            if not waiting.remaining:
                self._queue.remove(arrival)
            decisions.append(Decision(arrival, tuple(grants.values()), waiting.remaining))
        return decisions

    def _entries(self, lane: Lane) -> list[Waiting]:
        """What of a lane is looked at. One tenant's relocations beyond its quota are in no other one's way."""
        if lane.tenant is not None:
            return list(lane.waiting)
        tenants = {waiting.request.tenant for waiting in lane.waiting}
        held_back = {name for name in tenants if self._quotas.room(name, relocation=True) == 0}
        return [waiting for waiting in lane.waiting if waiting.request.tenant not in held_back]

    def _share(self, lines: list[_Line]) -> None:
        """Serve the tenant that has had the least, again and again."""
        order = [(*self._standing(line), line.tenant or "", line) for line in lines]
        heapq.heapify(order)
        while order:
            _, _, name, line = heapq.heappop(order)
            cursor = line.head()
            if cursor is not None:
                self._serve(line, cursor, self._portion(name, cursor, order[0][0]) if order else None)
                heapq.heappush(order, (*self._standing(line), name, line))

    def _had(self, name: str) -> float:
        return self._usage.of(name, self._ledger.held.get(name, 0))

    def _standing(self, line: _Line) -> tuple[float, int]:
        name = line.tenant or ""
        cursor = line.head()
        arrival = cursor.entries[cursor.index].request.arrival if cursor is not None else 0
        return self._had(name) / self._tenant(name).weight, arrival

    def _portion(self, name: str, cursor: _Cursor, next_standing: float) -> int:
        """How many slots this tenant may take before it is another's turn."""
        even = int((next_standing * self._tenant(name).weight - self._had(name)) / HORIZON) + 1
        return max(even, -(-self._free(cursor.lane) // _PORTIONS), 1)

    def _serve(self, line: _Line, cursor: _Cursor, portion: int | None) -> None:
        """Place some of the request at a cursor, and move on when there is no more to be done for it."""
        waiting = cursor.entries[cursor.index]
        request = waiting.request
        room = self._quotas.room(request.tenant, relocation=request.relocation)
        limit = waiting.remaining if room is None else min(waiting.remaining, room)
        if line.tenant is None and limit < request.least:
            cursor.index += 1
            return
        # All lanes of a tenant are held back alike; and what quota is left is kept for a gang that has been patient.
        if limit == 0 or (limit < request.least and self._is_over(waiting)):
            line.cursors.clear()
            return
        if not self._place(waiting, limit, portion):
            line.passed_over += 1
            cursor.index = cursor.index + 1 if self._free(cursor.lane) else len(cursor.entries)
        elif not waiting.remaining:
            cursor.index += 1

    def _place(self, waiting: Waiting, limit: int, portion: int | None) -> bool:
        """Place up to ``limit`` slots of a request, in whole groups. Returns whether there were any."""
        request = waiting.request
        shelves = self._ledger.shelves(waiting.environment, relocation=request.relocation)
        least = request.least
        if limit < least:
            return False
        without = self._kept | request.avoid if self._kept or request.avoid else frozenset()
        free = sum(shelf.free(without) for shelf in shelves)
        if free < least:
            if least > 1 and self._is_over(waiting):
                self._kept.update(
                    host for shelf in shelves for host in shelf.rooms if host not in request.avoid
                )
            return False
        count = min(limit, free)
        if not request.whole:
            if portion is not None:
                count = min(count, max(portion, least))
            count -= count % request.group_size
        waiting.remaining -= count
        here = self._ledger.of_client(request.client_id)
        for shelf in shelves:
            if count:
                for host_id, slots in shelf.choose(count, here, without).items():
                    self._give(waiting, host_id, slots)
                    count -= slots
        return True

    def _is_over(self, waiting: Waiting) -> bool:
        """Whether the time is over for which a gang may be overtaken."""
        return self._now - waiting.request.entered_at >= self._bounds.patience

    def _give(self, waiting: Waiting, host_id: str, slots: int) -> None:
        """Grant slots on one host; what this pass has given the request there before becomes one lease with it."""
        request = waiting.request
        _, grants = self._given.setdefault(request.arrival, (waiting, {}))
        lease_id = None
        if (before := grants.get(host_id)) is not None:
            lease_id, slots = before.lease_id, slots + before.count
            self._ledger.release(host_id, lease_id)
        grant = grants[host_id] = Grant(
            lease_id or self._new_id(),
            host_id,
            request.tenant,
            waiting.environment,
            request.client_id,
            slots,
            self._now + self._bounds.validity,
            request.relocation,
        )
        self._ledger.grant(grant)

    def _free(self, lane: Lane) -> int:
        shelves = self._ledger.shelves(lane.environment, relocation=lane.tenant is None)
        return sum(shelf.free(self._kept) for shelf in shelves)
