"""Clocks, so that every part that needs the time is given it and a test can turn it.

Durations and deadlines are on the monotonic clock; only what other machines read (the end of a lease's validity) is
on the wall clock. Both are plain callables that return seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock", "monotonic", "wall"]

Clock = Callable[[], float]

monotonic: Clock = time.monotonic
"""Seconds from an arbitrary point, never going back."""

wall: Clock = time.time
"""Seconds since 1970 (UTC), as this machine knows them."""
