"""Figures in words."""

from __future__ import annotations

__all__ = ["in_bytes", "in_time", "plural"]


def plural(count: int, noun: str) -> str:
    """``1 step``, ``2 steps``, ``10,000 steps``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def in_bytes(count: float) -> str:
    """``312 bytes``, ``4.0 KiB``, ``2.9 MiB``."""
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} GiB"


def in_time(seconds: float) -> str:
    """``12 µs``, ``3.4 ms``, ``2.1 s``."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.1f} s"
