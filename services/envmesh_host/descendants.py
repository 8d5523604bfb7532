"""The processes below this one: how many there are, and what memory and CPU time they take.

Read from /proc, so that it needs no word from the processes themselves: a worker that is stuck, or a program that never
knew of us, counts as well. Where there is no /proc, there is nothing to see.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Descendants"]

_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_MOST = 4096


class Descendants:
    """What the last look saw."""

    def __init__(self) -> None:
        self.count = 0
        self.memory_bytes = 0
        self._cpu: dict[int, float] = {}

    def look(self) -> float:
        """Look again. Returns the CPU seconds used since the look before, of those that are still there."""
        seen: dict[int, float] = {}
        used, memory = 0.0, 0
        waiting = _children(os.getpid())
        while waiting and len(seen) < _MOST:
            process = waiting.pop()
            stat = _stat(process)
            if stat is None or process in seen:
                continue
            seen[process], resident = stat
            used += max(0.0, seen[process] - self._cpu.get(process, 0.0))
            memory += resident
            waiting += _children(process)
        self._cpu, self.count, self.memory_bytes = seen, len(seen), memory
        return used


def _children(process: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in Path(f"/proc/{process}/task").iterdir():
            children += map(int, (thread / "children").read_text().split())
    except OSError:
        pass  # it is gone
    return children


def _stat(process: int) -> tuple[float, int] | None:
    """CPU seconds and resident bytes of a process; None: it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICK, int(fields[21]) * _PAGE
