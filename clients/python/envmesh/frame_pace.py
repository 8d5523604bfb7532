"""When a client writes its next frame: how far it goes ahead of its host (pure).

While a host is busy, commands gather: two frames at most wait there. A host that is far away is not busy: what is still
on the way to it holds nothing back, or each command to it would wait for most of a round trip. But it is given a few
frames a round trip only, for a frame for each command would cost both sides more than it brings.
"""

from __future__ import annotations

import math
from collections import deque

__all__ = ["FramePace"]

FRAMES_AHEAD = 2
"""Frames that are sent and not taken up, at most, but for those that are still on the way."""
FRAMES_A_TRIP = 8
"""So many are written within one trip at most."""
LEAST_GAP_SECONDS = 0.002
"""Between frames that go ahead. A near host takes up a frame within less, and never meets this."""
UNSTEADY = 1.5
"""A frame counts as on the way for so many times the shortest trip: no network takes the same time always."""
PERIOD_SECONDS = 10.0
"""The shortest trip is that of the last one or two such periods."""


class FramePace:
    """The frames of one stream. Times are on one monotonic clock, in seconds. A *trip* lasts from a frame's writing
    until it is known that the host has taken it up."""

    __slots__ = ("_begun", "_shortest", "_shortest_before", "_taken", "_written")

    def __init__(self) -> None:
        self._taken = 0
        self._written: deque[float] = deque()
        """When those were written that are not known to be taken up, oldest first."""
        self._shortest = self._shortest_before = math.inf
        self._begun = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until the next frame may be written: 0: now; infinity: not before the host takes up another."""
        written = self._written
        if len(written) < FRAMES_AHEAD:
            return 0.0
        trip = min(self._shortest, self._shortest_before)
        if math.isinf(trip) or now - written[FRAMES_AHEAD - 1] >= UNSTEADY * trip:
            return math.inf  # so many should be there by now: the host is busy
        gap = max(LEAST_GAP_SECONDS, trip / FRAMES_A_TRIP)
        return max(0.0, written[-1] + gap - now)

    def write(self, now: float) -> None:
        """A frame is written."""
        self._written.append(now)

    def take(self, taken: int, now: float) -> None:
        """The host says that it has taken up so many frames by now."""
        written, trip = self._written, math.inf
        while self._taken < taken and written:
            self._taken += 1
            trip = now - written.popleft()
        if now - self._begun >= PERIOD_SECONDS:
            self._begun, self._shortest_before, self._shortest = now, self._shortest, math.inf
        if trip < self._shortest:
            self._shortest = trip
