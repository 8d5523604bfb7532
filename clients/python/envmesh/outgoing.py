"""Commands on their way to a host, as columns, and their packing into frames (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from envmesh.frame_bounds import MOST_BYTES, most_rows, rows_within
from envmesh.lone_frames import spell_command
from envmesh.v1 import environment_pb2 as pb

__all__ = ["Outgoing"]

STEP = pb.COMMAND_KIND_STEP


class Outgoing:
    """Commands that wait to be written, in frames of at most ``most_bytes``."""

    __slots__ = ("handles", "indices", "kinds", "most_bytes", "payloads")

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._clear()

    def _clear(self) -> None:
        self.handles: list[int] = []
        self.indices: list[int] = []
        self.kinds: list[int] = []
        self.payloads: list[bytes] = []

    def __len__(self) -> int:
        return len(self.handles)

    def add(self, handle: int, index: int, kind: int, payload: bytes) -> None:
        """Queue one command."""
        self.handles.append(handle)
        self.indices.append(index)
        self.kinds.append(kind)
        self.payloads.append(payload)

    def extend(self, handles: Sequence[int], indices: Sequence[int], payloads: Sequence[bytes]) -> None:
        """Queue many steps."""
        self.handles += handles
        self.indices += indices
        self.kinds += [STEP] * len(handles)
        self.payloads += payloads

    def take(self, open_episodes: int) -> pb.StreamRequest:
        """The next frame, oldest commands first."""
        limit = most_rows(open_episodes)
        if sum(map(len, islice(self.payloads, limit))) > self.most_bytes:
            limit = rows_within(self.most_bytes, map(len, self.payloads))
        columns = (self.handles, self.indices, self.kinds, self.payloads)
        if len(self.handles) <= limit:
            self._clear()
        else:
            taken = tuple(column[:limit] for column in columns)
            for column in columns:
                del column[:limit]
            columns = taken  # type: ignore[assignment]
        handles, indices, kinds, payloads = columns
        if kinds.count(STEP) == len(kinds):
            return pb.StreamRequest(handles=handles, indices=indices, payloads=payloads)
        return pb.StreamRequest(handles=handles, indices=indices, payloads=payloads, kinds=kinds)  # type: ignore[arg-type]

    def take_alone(self) -> bytes:
        """The only command that waits, as a frame."""
        return spell_command(self.handles.pop(), self.indices.pop(), self.kinds.pop(), self.payloads.pop())
