"""The scheduler: one pass over the queue that gives out what is free.

The order is: relocations, by arrival; then tenants, the one first that has had the least for its weight (slot-seconds
so far, and what it holds now as if for ``HORIZON`` seconds more); within a tenant retried requests, priority, arrival.
While several tenants want the same slots each is served in small portions, so that they come out even.

A gang that does not fit is overtaken for ``patience`` seconds at most. Then every host that it could use is kept for
it: what comes free there collects until the gang fits, and nobody behind it starves it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from envmesh_broker.fairness import Tenant, Usage
from envmesh_broker.ledger import Grant, HostRecord, Ledger
from envmesh_broker.placement import Room, place
from envmesh_broker.queue import Lane, Queue, Waiting

__all__ = ["HORIZON", "Decision", "SchedulerBounds", "schedule"]

HORIZON = 60.0
"""Seconds for which a slot is expected to be held, when tenants are compared."""

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
    lagging: float = 0.25
    """A host whose event loop is later than this is taken last."""


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
    held: Mapping[str, int],
    tenant: Callable[[str], Tenant],
    new_id: Callable[[], bytes],
    now: float,
    bounds: SchedulerBounds = SchedulerBounds(),
) -> list[Decision]:
    """Give out what is free. ``held`` is what each tenant has. Grants are entered in the ledger, complete requests
    leave the queue."""
    return _Pass(queue, ledger, usage, dict(held), tenant, new_id, now, bounds).run()


@dataclass(slots=True)
class _Site:
    """A host during one pass."""

    record: HostRecord
    free: int
    bounds: Mapping[str, int]
    environments: dict[str, int]
    lagging: bool
    kept: bool = False

    def room(self, environment: str) -> int:
        if not self.bounds or environment not in self.bounds:
            return self.free
        return min(self.free, self.bounds[environment] - self.environments.get(environment, 0))

    def take(self, environment: str, slots: int) -> None:
        self.free -= slots
        if self.bounds:
            self.environments[environment] = self.environments.get(environment, 0) + slots


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
        held: dict[str, int],
        tenant: Callable[[str], Tenant],
        new_id: Callable[[], bytes],
        now: float,
        bounds: SchedulerBounds,
    ) -> None:
        self._queue, self._ledger, self._usage = queue, ledger, usage
        self._tenant, self._new_id, self._now, self._bounds = tenant, new_id, now, bounds
        self._held = held
        self._sites: dict[str, _Site] = {}
        self._by_environment: dict[str, list[_Site]] = {}
        self._given: dict[int, dict[str, int]] = {}

    def run(self) -> list[Decision]:
        lines: dict[str | None, _Line] = {}
        for lane in self._queue.lanes():
            if self._free(lane.environment):
                line = lines.setdefault(lane.tenant, _Line(lane.tenant))
                line.cursors.append(_Cursor(lane, list(lane.waiting)))
        relocations = lines.pop(None, None)
        if relocations is not None:
            while (cursor := relocations.head()) is not None:
                self._serve(relocations, cursor, None)
        self._share(list(lines.values()))
        return [self._decide(arrival, given) for arrival, given in self._given.items()]

    def _share(self, lines: list[_Line]) -> None:
        """Serve the tenant that has had the least, again and again."""
        order = [(*self._standing(line), line.tenant or "", line) for line in lines]
        heapq.heapify(order)
        while order:
            _, _, name, line = heapq.heappop(order)
            cursor = line.head()
            if cursor is None:
                continue
            self._serve(line, cursor, self._portion(name, cursor, order[0][0]) if order else None)
            heapq.heappush(order, (*self._standing(line), name, line))

    def _standing(self, line: _Line) -> tuple[float, int]:
        name = line.tenant or ""
        had = self._usage.of(name) + self._held.get(name, 0) * HORIZON
        cursor = line.head()
        return had / self._tenant(name).weight, cursor.entries[cursor.index].request.arrival if cursor else 0

    def _portion(self, name: str, cursor: _Cursor, next_standing: float) -> int:
        """How many slots this tenant may take before it is another's turn."""
        tenant = self._tenant(name)
        had = self._usage.of(name) + self._held.get(name, 0) * HORIZON
        even = int((next_standing * tenant.weight - had) / HORIZON) + 1
        return max(even, -(-self._free(cursor.lane.environment) // _PORTIONS), 1)

    def _serve(self, line: _Line, cursor: _Cursor, portion: int | None) -> None:
        """Place some of the request at a cursor, and move on when there is no more to be done for it."""
        waiting = cursor.entries[cursor.index]
        request = waiting.request
        limit = waiting.remaining
        if line.tenant is not None:
            quota = self._tenant(line.tenant).quota
            if quota:
                limit = min(limit, max(0, quota - self._held.get(line.tenant, 0)))
            if limit == 0:  # all of its lanes are held back alike
                line.cursors.clear()
                return
        placed = self._place(waiting, limit, portion)
        if placed == 0:
            line.passed_over += 1
            cursor.index = cursor.index + 1 if self._free(waiting.environment) else len(cursor.entries)
        elif waiting.remaining == 0:
            cursor.index += 1
        self._held[request.tenant] = self._held.get(request.tenant, 0) + placed

    def _place(self, waiting: Waiting, limit: int, portion: int | None) -> int:
        """Place up to ``limit`` slots of a request, in whole groups. Returns how many."""
        request, environment = waiting.request, waiting.environment
        least = waiting.remaining if request.whole else request.group_size
        if limit < least:
            return 0
        sites = [
            site
            for site in self._at(environment)
            if not site.kept and site.room(environment) > 0 and site.record.host.host_id not in request.avoid
        ]
        free = sum(site.room(environment) for site in sites)
        if free < least:
            if least > 1 and self._now - request.entered_at >= self._bounds.patience:
                for site in sites:
                    site.kept = True
            return 0
        count = min(limit, free)
        if not request.whole:
            if portion is not None:
                count = min(count, max(portion, least))
            count -= count % request.group_size
        self._take(waiting, sites, count)
        return count

    def _take(self, waiting: Waiting, sites: list[_Site], count: int) -> None:
        request, environment = waiting.request, waiting.environment
        given = self._given.setdefault(request.arrival, {})
        here = dict(given)
        client = request.client_id
        for site in self._at(environment) if client else ():
            if client in site.record.load.clients:
                host_id = site.record.host.host_id
                here[host_id] = here.get(host_id, 0) + site.record.load.clients[client]
        rooms = [
            Room(
                s.record.host.host_id,
                s.room(environment),
                s.record.host.slots - s.free,
                s.record.host.slots,
                s.lagging,
            )
            for s in sites
        ]
        spread = any(site.record.host.spread for site in sites)
        for host_id, slots in place(rooms, count, spread=spread, here=here).items():
            site = self._sites[host_id]
            site.take(environment, slots)
            given[host_id] = given.get(host_id, 0) + slots
        waiting.remaining -= count

    def _decide(self, arrival: int, given: Mapping[str, int]) -> Decision:
        waiting = self._queue.get(arrival)
        assert waiting is not None
        request = waiting.request
        grants = tuple(
            Grant(
                self._new_id(),
                host_id,
                request.tenant,
                waiting.environment,
                request.client_id,
                slots,
                self._now + self._bounds.validity,
                request.relocation,
            )
            for host_id, slots in given.items()
        )
        for grant in grants:
            self._ledger.grant(grant)
        if waiting.remaining == 0:
            self._queue.remove(arrival)
        return Decision(arrival, grants, waiting.remaining)

    # ---- the hosts, as this pass sees them

    def _free(self, environment: str) -> int:
        return sum(site.room(environment) for site in self._at(environment) if not site.kept)

    def _at(self, environment: str) -> list[_Site]:
        sites = self._by_environment.get(environment)
        if sites is None:
            sites = self._by_environment[environment] = [
                site for site in self._look(environment) if site.room(environment) > 0
            ]
        return sites

    def _look(self, environment: str) -> Iterator[_Site]:
        for record in self._ledger.placeable(environment, self._now):
            host_id = record.host.host_id
            site = self._sites.get(host_id)
            if site is None:
                lag = record.report.lag if record.report is not None else 0.0
                bounds = record.host.environment_slots
                site = self._sites[host_id] = _Site(
                    record,
                    record.host.slots - record.load.used,
                    bounds,
                    dict(record.load.environments) if bounds else {},
                    lag > self._bounds.lagging,
                )
            yield site
