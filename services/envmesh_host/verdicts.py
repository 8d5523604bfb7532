"""How a host ended, or why it is silent, judged from what was seen of it (pure)."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from envmesh.v1 import placement_pb2
from envmesh_host.isolation.death import FROM_OUTSIDE

__all__ = [
    "STOPPED_SECONDS",
    "STOPPED_STATES",
    "Evidence",
    "Verdict",
    "fatal_line",
    "judge_death",
    "judge_silence",
]

OUTSIDE = placement_pb2.LOSS_CAUSE_OUTSIDE
CRASHED = placement_pb2.LOSS_CAUSE_CRASHED
STUCK = placement_pb2.LOSS_CAUSE_STUCK
OUT_OF_MEMORY = placement_pb2.LOSS_CAUSE_OUT_OF_MEMORY

STOPPED_STATES = frozenset("Tt")
"""Of /proc/PID/stat: stopped by a signal, or by a debugger."""

STOPPED_SECONDS = 0.5
SILENT_SECONDS = 1.0
"""After so long without a turn of its loop it is asked what a host does."""

FATAL = "Fatal Python error: "
"""How faulthandler begins; the last words of a process that a signal of its own doing ends."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A ``LossCause``, and a sentence for people."""

    cause: placement_pb2.LossCause.ValueType
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a host that is gone.

    ``status`` is its exit code, or minus the signal's number, None where the kernel does not tell. ``fatal`` is the
    first line of what faulthandler said; ``stuck`` what a watchdog said that ended it; ``told`` whether it had been
    asked to go, and ``left`` whether it did so in good order. ``out_of_memory``: the kernel killed for want of memory
    in its cgroup meanwhile.
    """

    status: int | None = None
    fatal: str = ""
    stuck: str = ""
    told: bool = False
    left: bool = False
    out_of_memory: bool = False


def judge_death(seen: Evidence) -> Verdict:
    """Whose doing it was. A kill without any other evidence came from outside."""
    if seen.stuck:
        return Verdict(STUCK, seen.stuck)
    if seen.fatal:
        return Verdict(CRASHED, f"it crashed: {seen.fatal}")
    if seen.left:
        return Verdict(OUTSIDE, "it left in good order")
    killed = seen.status is None or seen.status == -signal.SIGKILL
    if killed and seen.out_of_memory:
        return Verdict(OUT_OF_MEMORY, "it was killed for want of memory")
    if seen.status is not None and seen.status < 0 and -seen.status not in FROM_OUTSIDE:
        return Verdict(CRASHED, f"it died by {_name(-seen.status)}")
    if seen.told:
        return Verdict(OUTSIDE, "it was told to go, and could not leave in good order")
    if seen.status is None:
        return Verdict(OUTSIDE, "it was killed from outside")
    if seen.status < 0:
        return Verdict(OUTSIDE, f"it was killed from outside, by {_name(-seen.status)}")
    return Verdict(CRASHED, f"it ended itself with exit code {seen.status}")


def judge_silence(state: str, silent: float, in_code: float) -> Verdict | None:
    """Why a host that is there does not turn its loop; None: it is not known, or not silent.

    ``state`` is the kernel's word for what its loop's thread does, ``silent`` for how many seconds the loop has not
    turned, ``in_code`` how long an environment's code has been running in it, 0 where none is.
    """
    if state in STOPPED_STATES and silent >= STOPPED_SECONDS:
        return Verdict(OUTSIDE, "it was stopped from outside, by a signal")
    if silent >= SILENT_SECONDS and in_code >= SILENT_SECONDS:
        return Verdict(STUCK, f"an environment's code has kept its loop for {in_code:.1f} s")
    return None


def fatal_line(words: str) -> str:
    """What faulthandler said first in these words; empty where it did not speak."""
    _, found, rest = words.partition(FATAL)
    return rest.partition("\n")[0].strip() if found else ""


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
