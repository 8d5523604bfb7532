"""What a worker asks of the kernel. Linux gives all of it; elsewhere a function does what it can, silently."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

__all__ = ["adopt_orphans", "bound_memory", "children", "die_with_parent", "offer_to_the_oom_killer"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have this process killed as soon as the thread that made it ends; ``parent`` is the process it had to have."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end, so that none escapes."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> set[int]:
    """The children of this process; empty where the kernel does not tell."""
    try:
        return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))
    except OSError:
        return set()


def offer_to_the_oom_killer() -> None:
    """Where memory runs out, end this process rather than its host."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        pass


def bound_memory(memory_bytes: int | None) -> None:
    """Bound this process's private memory (beyond it the code meets a MemoryError), and leave no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
