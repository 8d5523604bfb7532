"""Events on their way to a client, as columns, and their packing into frames (pure).

A frame takes whatever is ready, up to a share of what the connection has open: with everything in one frame both sides
would work in turns. Values over 256 KiB go apart, so that they can travel on a stream of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from envmesh.lone_frames import spell_event
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.served import OutcomeColumns, Row

__all__ = ["LARGE_VALUE_BYTES", "Outbox"]

LARGE_VALUE_BYTES = 256 * 1024
LEAST_EVENTS, MOST_EVENTS = 32, 512

OUTCOME = pb.EVENT_KIND_OUTCOME


class Outbox:
    """Events that wait to be written. ``large_bytes`` counts the large values among them."""

    __slots__ = (
        "digests",
        "flags",
        "handles",
        "indices",
        "infos",
        "kinds",
        "large_bytes",
        "payloads",
        "rewards",
    )

    def __init__(self) -> None:
        self._clear()
        self.large_bytes = 0

    def _clear(self) -> None:
        self.handles: list[int] = []
        self.indices: list[int] = []
        self.kinds: list[int] = []
        self.payloads: list[bytes] = []
        self.rewards: list[float] = []
        self.flags: list[int] = []
        self.digests: list[int] = []
        self.infos: list[bytes] = []

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
        if len(row[0]) >= LARGE_VALUE_BYTES:
            self.large_bytes += len(row[0])

    def extend(self, handles: Sequence[int], indices: Sequence[int], outcomes: OutcomeColumns) -> None:
        """Queue many outcomes."""
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
        limit = min(MOST_EVENTS, max(LEAST_EVENTS, open_episodes // 2))
        columns = (self.handles, self.indices, self.kinds, self.payloads, self.rewards, self.flags, self.digests,
                   self.infos)  # fmt: skip
        if len(self.handles) <= limit:
            self._clear()
        else:
            taken = tuple(column[:limit] for column in columns)
            for column in columns:
                del column[:limit]
            columns = taken  # type: ignore[assignment]
        handles, indices, kinds, payloads, rewards, flags, digests, infos = columns
        if self.large_bytes:
            self.large_bytes = sum(
                size for payload in self.payloads if (size := len(payload)) >= LARGE_VALUE_BYTES
            )
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
        return self.large_bytes > 0 and len(self.payloads[0]) >= LARGE_VALUE_BYTES

    def take_alone(self, taken: int) -> bytes:
        """The oldest event, as a frame which says that ``taken`` frames were taken up."""
        payload = self.payloads.pop(0)
        if len(payload) >= LARGE_VALUE_BYTES:
            self.large_bytes -= len(payload)
        row = (payload, self.rewards.pop(0), self.flags.pop(0), self.digests.pop(0), self.infos.pop(0))
        return spell_event(self.handles.pop(0), self.indices.pop(0), self.kinds.pop(0), row, taken)
