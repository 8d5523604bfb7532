"""The rows of a request, as lists, and which of them may be taken together (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb

__all__ = ["Columns"]

STEP = pb.COMMAND_KIND_STEP
MAX_ROWS = 4096


class Columns:
    """The rows of a request, as lists. ``others`` are the rows to be taken one by one, ``steps`` those to be taken
    together afterwards: what is for different episodes has no order. A frame that steps an episode and does something
    else with it is taken row by row.

    Raises:
        Refusal: MALFORMED when the columns disagree in length, or a frame has too many rows.
    """

    __slots__ = ("arrived", "count", "handles", "indices", "kinds", "others", "payloads", "steps", "timeouts")

    def __init__(self, frame: pb.StreamRequest, arrived: float):
        self.handles = handles = list(frame.handles)
        self.count = count = len(handles)
        self.indices = list(frame.indices) or [0] * count
        self.payloads = list(frame.payloads) or [b""] * count
        self.kinds = list(frame.kinds) or None
        self.timeouts = list(frame.timeouts) or None
        self.arrived = arrived
        lengths = (len(self.indices), len(self.payloads), len(self.kinds or handles),
                   len(self.timeouts or handles), len(frame.annotations) or count)  # fmt: skip
        if any(length != count for length in lengths):
            raise Refusal(
                f"the frame's columns disagree: {count} handles, others {lengths}", reason="MALFORMED"
            )
        if count > MAX_ROWS:
            raise Refusal(f"a frame has at most {MAX_ROWS} rows; this has {count}", reason="MALFORMED")
        self.others: Sequence[int] = ()
        self.steps: Sequence[int] = range(count)
        if self.kinds is not None or self.timeouts is not None or len(set(handles)) != count:
            self._divide()

    def _divide(self) -> None:
        kinds, handles, count = self.kinds, self.handles, self.count
        if kinds is None or self.timeouts is not None:
            self.others, self.steps = range(count), ()
            return
        others = [row for row, kind in enumerate(kinds) if kind != STEP]
        steps = [row for row, kind in enumerate(kinds) if kind == STEP]
        stepped = {handles[row] for row in steps}
        if len(stepped) != len(steps) or any(handles[row] in stepped for row in others):
            self.others, self.steps = range(count), ()
        else:
            self.others, self.steps = others, steps
