"""The rows of a request, as lists, and which of them may be taken together (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb

__all__ = ["Columns"]

STEP = pb.COMMAND_KIND_STEP
MAX_ROWS = 4096


class Columns:
    """The rows of a request, as lists. ``others`` are the rows to be taken one by one, ``steps`` those to be taken
    together afterwards, as columns of handles, indices and payloads: what is for different episodes has no order. A
    frame that steps an episode and does something else with it is taken row by row.

    Raises:
        Refusal: MALFORMED when the columns disagree in length, or a frame has too many rows.
    """

    __slots__ = ("arrived", "count", "handles", "indices", "kinds", "others", "payloads", "steps", "timeouts")

    def __init__(self, frame: pb.StreamRequest, arrived: float):
        self.count = count = len(frame.handles)
        lengths = (len(frame.indices), len(frame.payloads), len(frame.kinds), len(frame.timeouts),
                   len(frame.annotations))  # fmt: skip
        # Before there is a list of anything: a frame's bytes may be rows by the million.
        if count > MAX_ROWS:
            raise Refusal(f"a frame has at most {MAX_ROWS} rows; this has {count}", reason="MALFORMED")
        if any(length not in (0, count) for length in lengths):
            raise Refusal(
                f"the frame's columns disagree: {count} handles, others {lengths}", reason="MALFORMED"
            )
        self.handles = handles = list(frame.handles)
        self.indices = list(frame.indices) or [0] * count
        self.payloads = list(frame.payloads) or [b""] * count
        self.kinds = list(frame.kinds) or None
        self.timeouts = list(frame.timeouts) or None
        self.arrived = arrived
        self.others: Sequence[int] = ()
        self.steps = Steps(handles, self.indices, self.payloads)
        if self.timeouts is not None:
            self._row_by_row()
        elif self.kinds is not None:
            self._divide(self.kinds)
        elif len(set(handles)) != count:
            self._row_by_row()

    def _row_by_row(self) -> None:
        self.others, self.steps = range(self.count), Steps([], [], [])

    def _divide(self, kinds: Sequence[int]) -> None:
        """Most rows are steps: those that are not are cut out of copies of the columns."""
        others = [row for row, kind in enumerate(kinds) if kind != STEP]
        steps = Steps(self.handles.copy(), self.indices.copy(), self.payloads.copy())
        for row in reversed(others):
            del steps.handles[row], steps.indices[row], steps.payloads[row]
        stepped = set(steps.handles)
        if len(stepped) != len(steps.handles) or any(self.handles[row] in stepped for row in others):
            self._row_by_row()
        else:
            self.others, self.steps = others, steps


class Steps(NamedTuple):
    """Steps of different episodes, as columns."""

    handles: list[int]
    indices: list[int]
    payloads: list[bytes]
