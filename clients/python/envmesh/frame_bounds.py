"""How much goes into one frame, either way (pure).

A frame takes whatever is ready, up to half of what its connection has open: with everything in one frame both sides
would work in turns. Beyond ``MOST_BYTES`` it would hold up what is behind it.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "FRAME_HEAD_BYTES",
    "LARGE_REPLY_BYTES",
    "LARGE_VALUE_BYTES",
    "MOST_BYTES",
    "most_rows",
    "rows_within",
]

LEAST_ROWS, MOST_ROWS = 32, 512
MOST_BYTES = 1 << 20
LARGE_VALUE_BYTES = 256 * 1024
"""A value of so many bytes travels apart: on the second stream of its connection, where there is one."""
LARGE_REPLY_BYTES = 64 * 1024
"""A reply of more bytes, observation and info together, is acknowledged as it comes, and its host drops it."""
FRAME_HEAD_BYTES = 64 * 1024
"""What is left of a frame for everything but its payloads."""


def most_rows(open_episodes: int) -> int:
    """How many commands or events a frame takes at most."""
    return min(MOST_ROWS, max(LEAST_ROWS, open_episodes // 2))


def rows_within(most_bytes: int, sizes: Iterable[int]) -> int:
    """How many rows of these sizes, from the first on, fit into so many bytes: one at least."""
    rows = total = 0
    for size in sizes:
        total += size
        if total > most_bytes:
            break
        rows += 1
    return max(1, rows)
