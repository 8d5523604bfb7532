"""Placement: on which hosts the slots of one grant go.

A client's slots are kept together, for fuller frames and fewer connections. Packing takes the tightest fit among
hosts that are in use; spreading takes the emptiest hosts, and bounds what the loss of one costs. A host whose event
loop lags is taken last.

The hosts that have room for an environment stand on its shelf, sorted, so that a choice among a thousand hosts looks
at a few.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = ["EXPOSURE", "Room", "Shelf", "Shelves"]

EXPOSURE = 4
"""Spreading puts at most one in so many of a client's slots on one host, while there is room elsewhere."""

_WORTH, _EMPTY, _CRUMBS = range(3)
_LAGGING = 3
"""Added to the kind of a host whose event loop lags."""


@dataclass(frozen=True, slots=True)
class Room:
    """What one host has left for one environment."""

    free: int
    used: int
    slots: int
    spread: bool = False
    lagging: bool = False

    @property
    def kind(self) -> int:
        """Hosts in use with a quarter free, for which a connection is worth it; empty ones; crumbs."""
        if not self.used:
            kind = _EMPTY
        else:
            kind = _WORTH if self.free * 4 >= self.slots else _CRUMBS
        return kind + _LAGGING if self.lagging else kind


class Shelf:
    """The hosts that have room for one environment."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self._packed: list[list[tuple[int, str]]] = [[] for _ in range(2 * _LAGGING)]
        self._spread: tuple[list[tuple[float, str]], list[tuple[float, str]]] = ([], [])
        self._total: int | None = 0

    def put(self, host_id: str, room: Room | None) -> None:
        """What a host has now; None, or nothing free, takes it off the shelf."""
        old = self.rooms.get(host_id)
        if room is not None and room.free <= 0:
            room = None
        if old == room:
            return
        self._total = None
        if old is not None:
            self._remove(host_id, old)
        if room is not None:
            self.rooms[host_id] = room
            if room.spread:
                insort(self._spread[room.lagging], (room.used / room.slots, host_id))
            else:
                insort(self._packed[room.kind], (room.free, host_id))

    def free(self, without: Collection[str] = ()) -> int:
        """How many slots all of them have, but those on the hosts of ``without``."""
        if self._total is None:
            self._total = sum(room.free for room in self.rooms.values())
        return self._total - sum(self.rooms[host_id].free for host_id in without if host_id in self.rooms)

    def choose(self, count: int, here: Mapping[str, int], without: Collection[str] = ()) -> dict[str, int]:
        """Distribute ``count`` slots: how many on which host, in the order they were chosen.

        ``here`` says what the client holds on which host already; hosts of ``without`` are left out. Less than
        ``count`` comes back only where there is less.
        """
        chosen: dict[str, int] = {}
        mine = [h for h in here if h in self.rooms and h not in without and not self.rooms[h].lagging]
        packed = sorted(
            (self.rooms[host_id].free, host_id) for host_id in mine if not self.rooms[host_id].spread
        )
        count = _fill(packed, count, chosen, ())
        left_out = {*without, *(host_id for _, host_id in packed)}
        for rooms in self._packed[:_LAGGING]:
            count = _fill(rooms, count, chosen, left_out)
        if count and (self._spread[0] or self._spread[1]):
            count = self._scatter(count, here, chosen, without)
        for rooms in self._packed[_LAGGING:]:
            count = _fill(rooms, count, chosen, left_out)
        return chosen

    def _scatter(
        self, count: int, here: Mapping[str, int], chosen: dict[str, int], without: Collection[str]
    ) -> int:
        """The emptiest first, at most a share of the client's slots on each; then without that bound; then the
        lagging ones, for a lagging host is worse than a crowded one. Returns what is still wanted."""
        cap = -(-(sum(here.values()) + count) // EXPOSURE)
        for order, bounded in ((self._spread[0], True), (self._spread[0], False), (self._spread[1], False)):
            for _, host_id in order:
                if not count:
                    return 0
                if host_id not in without:
                    taken = chosen.get(host_id, 0)
                    most = cap - here.get(host_id, 0) - taken if bounded else count
                    more = min(self.rooms[host_id].free - taken, most, count)
                    if more > 0:
                        chosen[host_id] = taken + more
                        count -= more
        return count

    def _remove(self, host_id: str, room: Room) -> None:
        del self.rooms[host_id]
        if room.spread:
            spread = self._spread[room.lagging]
            del spread[bisect_left(spread, (room.used / room.slots, host_id))]
        else:
            packed = self._packed[room.kind]
            del packed[bisect_left(packed, (room.free, host_id))]


class Shelves:
    """Shelves by environment; only those that have something on them are kept."""

    def __init__(self) -> None:
        self._shelves: dict[str, Shelf] = {}

    def of(self, environment: str) -> Shelf:
        """The hosts that have room for an environment."""
        return self._shelves.get(environment) or Shelf()

    def put(self, environment: str, host_id: str, room: Room | None) -> None:
        """What a host has for an environment now; None, or nothing free, takes it off the shelf."""
        shelf = self._shelves.get(environment)
        if shelf is None:
            if room is None:
                return
            shelf = self._shelves[environment] = Shelf()
        shelf.put(host_id, room)
        if not shelf.rooms:
            del self._shelves[environment]


def _fill(rooms: list[tuple[int, str]], count: int, chosen: dict[str, int], left_out: Collection[str]) -> int:
    """Take from rooms in rising order of what is free: the largest, until the rest fits into one; of those into which
    it fits, the tightest. Returns what is still wanted."""
    last = len(rooms) - 1
    while count and last >= 0:
        free, host_id = rooms[last]
        if free >= count:
            for _, host_id in rooms[bisect_left(rooms, (count, ""), 0, last) : last + 1]:
                if host_id not in left_out:
                    chosen[host_id] = count
                    return 0
            last = bisect_left(rooms, (count, ""), 0, last) - 1
            continue
        if host_id not in left_out:
            chosen[host_id] = free
            count -= free
        last -= 1
    return count
