"""Events on their way to a client, as columns, and their packing into frames (pure).

Values over 256 KiB go apart, so that they can travel on a stream of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from operator import add

from envmesh.frame_bounds import LARGE_VALUE_BYTES, MOST_BYTES, most_rows, rows_within
from envmesh.lone_frames import spell_event
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.served import OutcomeColumns, Row, size_of

__all__ = ["Outbox"]

OUTCOME = pb.EVENT_KIND_OUTCOME


class Outbox:
    """Events that wait to be written, in frames of at most ``most_bytes``. What they carry, payloads and infos, has
    ``total_bytes``, and the large ones among it ``large_bytes``; while it fits into one frame, it may be less."""

    __slots__ = (
        "digests",
        "flags",
        "handles",
        "indices",
        "infos",
        "kinds",
        "large_bytes",
        "most_bytes",
        "payloads",
        "rewards",
        "total_bytes",
    )

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._clear()
        self.large_bytes = 0

    def _clear(self) -> None:
        self.total_bytes = 0
        self.handles: list[int] = []
        self.indices: list[int] = []
        self.kinds: list[int] = []
        self.payloads: list[bytes] = []
        self.rewards: list[float] = []
        self.flags: list[int] = []
        self.digests: list[int] = []
        self.infos: list[bytes] = []

    def _sizes(self) -> Iterator[int]:
        return map(add, map(len, self.payloads), map(len, self.infos))

    def __len__(self) -> int:
        return len(self.handles)

    def add(self, handle: int, index: int, kind: int, row: Row) -> None:
        """Queue one event."""
        self.handles.append(handle)
        self.indices.append(index)
        self.kinds.append(kind)
        self.payloads.append(row[0])
        self.rewards.append(row[1])
        self.flags.append(row[2])
        self.digests.append(row[3])
        self.infos.append(row[4])
        size = len(row[0]) + len(row[4])
        self.total_bytes += size
        if size >= LARGE_VALUE_BYTES:
            self.large_bytes += size

    def extend(
        self, handles: Sequence[int], indices: Sequence[int], outcomes: OutcomeColumns, size: int
    ) -> None:
        """Queue many outcomes, which have ``size`` bytes together, and none of which is large."""
        self.total_bytes += size
        self.handles += handles
        self.indices += indices
        self.kinds += [OUTCOME] * len(handles)
        self.payloads += outcomes[0]
        self.rewards += outcomes[1]
        self.flags += outcomes[2]
        self.digests += outcomes[3]
        self.infos += outcomes[4]

    def take(self, open_episodes: int) -> pb.StreamResponse:
        """The next frame, oldest events first; a column whose values are all the default is absent from it."""
        limit = most_rows(open_episodes)
        if self.total_bytes > self.most_bytes:
            self.total_bytes = sum(self._sizes())
            limit = rows_within(self.most_bytes, islice(self._sizes(), limit))
        columns = (self.handles, self.indices, self.kinds, self.payloads, self.rewards, self.flags, self.digests,
                   self.infos)  # fmt: skip
        if len(self.handles) <= limit:
            self._clear()
        else:
            if self.total_bytes > self.most_bytes:
                self.total_bytes -= sum(islice(self._sizes(), limit))
            taken = tuple(column[:limit] for column in columns)
            for column in columns:
                del column[:limit]
            columns = taken  # type: ignore[assignment]
        handles, indices, kinds, payloads, rewards, flags, digests, infos = columns
        if self.large_bytes:
            self.large_bytes = sum(size for size in self._sizes() if size >= LARGE_VALUE_BYTES)
        return pb.StreamResponse(
            handles=handles,
            indices=indices,
            payloads=payloads,
            rewards=rewards if any(rewards) else None,
            flags=flags if any(flags) else None,
            digests=digests if any(digests) else None,
            kinds=kinds if kinds.count(OUTCOME) != len(kinds) else None,  # type: ignore[arg-type]
            infos=infos if any(infos) else None,
        )

    @property
    def begins_large(self) -> bool:
        """Whether the oldest event is of a large value: it takes a frame of its own, which is copied least."""
        return self.large_bytes > 0 and next(self._sizes()) >= LARGE_VALUE_BYTES

    def take_alone(self, taken: int) -> bytes:
        """The oldest event, as a frame which says that ``taken`` frames were taken up."""
        row = (
            self.payloads.pop(0),
            self.rewards.pop(0),
            self.flags.pop(0),
            self.digests.pop(0),
            self.infos.pop(0),
        )
        size = size_of(row)
        self.total_bytes = self.total_bytes - size if len(self.handles) > 1 else 0
        if size >= LARGE_VALUE_BYTES:
            self.large_bytes -= size
        return spell_event(self.handles.pop(0), self.indices.pop(0), self.kinds.pop(0), row, taken)
