"""Placement: on which hosts the slots of one grant go.

A client's slots are kept together, for fuller frames and fewer connections. Packing takes the tightest fit among
hosts that are in use; spreading takes the emptiest hosts, and bounds what the loss of one costs. A host whose event
loop lags is taken last.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["EXPOSURE", "Room", "place"]

EXPOSURE = 4
"""Spreading puts at most one in so many of a client's slots on one host, while there is room elsewhere."""


@dataclass(slots=True)
class Room:
    """What one host has left for one environment."""

    host_id: str
    free: int
    used: int
    slots: int
    lagging: bool = False


def place(rooms: Sequence[Room], count: int, *, spread: bool, here: Mapping[str, int]) -> dict[str, int]:
    """Distribute ``count`` slots: how many on which host, in the order they were chosen.

    ``here`` says what the client holds on which host already. Less than ``count`` comes back only where the rooms
    have less.
    """
    return _spread(rooms, count, here) if spread else _pack(rooms, count, here)


def _pack(rooms: Sequence[Room], count: int, here: Mapping[str, int]) -> dict[str, int]:
    """Best first: the client's own hosts; hosts in use with a quarter free, so that a connection is worth it; empty
    ones; crumbs. Within each, the largest until the rest fits into one host, then the tightest fit."""
    kinds: list[list[tuple[int, str]]] = [[] for _ in range(8)]
    for room in rooms:
        if room.free > 0:
            if room.host_id in here:
                kind = 0
            elif not room.used:
                kind = 2
            else:
                kind = 1 if room.free * 4 >= room.slots else 3
            kinds[kind + 4 if room.lagging else kind].append((room.free, room.host_id))
    chosen: dict[str, int] = {}
    for kind_rooms in kinds:
        if kind_rooms:
            kind_rooms.sort()
            count = _fill(kind_rooms, count, chosen)
            if not count:
                break
    return chosen


def _fill(rooms: list[tuple[int, str]], count: int, chosen: dict[str, int]) -> int:
    """Take from rooms in rising order of what is free. Returns what is still wanted."""
    while count and rooms:
        tightest = bisect_left(rooms, (count, ""))
        free, host_id = rooms.pop(min(tightest, len(rooms) - 1))
        chosen[host_id] = taken = min(free, count)
        count -= taken
    return count


def _spread(rooms: Sequence[Room], count: int, here: Mapping[str, int]) -> dict[str, int]:
    cap = -(-(sum(here.values()) + count) // EXPOSURE)
    order = sorted(
        (room for room in rooms if room.free > 0),
        key=lambda room: (room.lagging, room.used / room.slots, room.host_id),
    )
    firm = bisect_right([room.lagging for room in order], False)  # a lagging host is worse than a crowded one
    chosen: dict[str, int] = {}
    for part, bounded in ((order[:firm], True), (order[:firm], False), (order[firm:], False)):
        for room in part:
            if not count:
                return chosen
            taken = chosen.get(room.host_id, 0)
            most = cap - here.get(room.host_id, 0) - taken if bounded else count
            more = min(room.free - taken, most, count)
            if more > 0:
                chosen[room.host_id] = taken + more
                count -= more
    return chosen
