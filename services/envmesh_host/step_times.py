"""How long the steps of inline environments take: noted by the batch, worked out later (pure).

A step may take a microsecond, and two looks at the clock a fifth of that. So the clock is read after every few steps,
as many as should take three quarters of ``EXACT_FROM`` seconds: no step of a group that stayed below that took longer,
and they are counted by their mean. In a group that took longer the rare slow step hides, and the excess is laid to one.
The sum is always exact.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envmesh.instruments import COARSE_DURATION_BUCKETS

__all__ = ["StepTimes", "Timed", "stride_of"]

EXACT_FROM = COARSE_DURATION_BUCKETS[1]
"""A step that takes at least so many seconds is counted in its own bucket, however fast its neighbours are."""
LONGEST_STRIDE = 32

Floats = NDArray[np.float64]


def stride_of(step_cost: float) -> int:
    """How many steps to take between two looks at the clock, where one takes about ``step_cost`` seconds."""
    return max(1, min(LONGEST_STRIDE, int(0.75 * EXACT_FROM / step_cost)))


class Timed(NamedTuple):
    """Seconds, and how many steps each number stands for: in the environment (``running``), from the arrival of the
    frame to the outcome (``elapsed``), and to the begin of the step (``waited``)."""

    running: Floats
    running_counts: Floats
    elapsed: Floats
    waited: Floats
    counts: Floats


class StepTimes:
    """The times of the steps of one environment since the last look at the metrics."""

    __slots__ = ("_arrived", "_counts", "_stamps", "_strides", "steps")

    def __init__(self) -> None:
        self.steps = 0
        self._stamps: list[array[float]] = []
        self._strides: list[int] = []
        self._counts: list[int] = []
        self._arrived: list[float] = []

    def note(self, stamps: array[float], stride: int, count: int, arrived: float) -> None:
        """A batch of ``count`` steps, of a frame that ``arrived`` then: the clock at its begin and after every
        ``stride`` steps, the last group being shorter where it does not come out even."""
        self.steps += count
        self._stamps.append(stamps)
        self._strides.append(stride)
        self._counts.append(count)
        self._arrived.append(arrived)

    def timed(self) -> Timed:
        """All of it as arrays."""
        groups = np.array([len(stamps) - 1 for stamps in self._stamps])
        clock = np.frombuffer(b"".join(self._stamps))
        ends = np.ones(len(clock), bool)
        ends[np.cumsum(groups + 1) - groups - 1] = False
        begun, ended = clock[:-1][ends[1:]], clock[1:][ends[1:]]
        strides = np.asarray(self._strides)
        counts = np.repeat(strides, groups).astype(float)
        counts[np.cumsum(groups) - 1] = np.asarray(self._counts) - strides * (groups - 1)
        arrived = np.repeat(np.asarray(self._arrived), groups)
        running, running_counts = _spread(ended - begun, counts)
        return Timed(running, running_counts, ended - arrived, begun - arrived, counts)


def _spread(seconds: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """The seconds of groups of steps as those of steps, and how many took each."""
    each = seconds / counts
    slow = (seconds >= EXACT_FROM) & (counts > 1)
    if not slow.any():
        return each, counts
    usual = each.min()
    others = counts[slow] - 1
    each[slow] = seconds[slow] - others * usual
    alone: Any = np.where(slow, 1.0, counts)
    return np.append(each, usual), np.append(alone, others.sum())
