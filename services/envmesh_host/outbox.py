"""Events on their way to a client, and their packing into frames (pure).

A frame takes whatever is ready, up to a share of what the connection has open: with everything in one frame both sides
would work in turns. Values over 256 KiB go apart, so that they can travel on a stream of their own.
"""

from __future__ import annotations

from envmesh.v1 import environment_pb2 as pb
from envmesh_host.served import Row

__all__ = ["LARGE_VALUE_BYTES", "Event", "Outbox", "pack"]

Event = tuple[int, int, int, Row]
"""Handle, index, kind, row."""

LARGE_VALUE_BYTES = 256 * 1024
FRAME_BYTES = 1 << 20
LEAST_EVENTS, MOST_EVENTS = 32, 512

OUTCOME = pb.EVENT_KIND_OUTCOME


class Outbox:
    """Events that wait to be written. ``bytes`` counts the large values among them."""

    __slots__ = ("events", "large_bytes")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.large_bytes = 0

    def take(self, open_episodes: int) -> list[Event]:
        """The events of the next frame, oldest first."""
        limit = min(MOST_EVENTS, max(LEAST_EVENTS, open_episodes // 4))
        events = self.events
        if len(events) <= limit:
            taken, self.events = events, []
        else:
            taken = events[:limit]
            del events[:limit]
        return taken


def split_large(events: list[Event]) -> tuple[list[Event], list[Event]]:
    """(small, large) events; costs next to nothing where none is large."""
    if sum([len(event[3][0]) for event in events]) < LARGE_VALUE_BYTES:
        return events, []
    small = [event for event in events if len(event[3][0]) < LARGE_VALUE_BYTES]
    return small, [event for event in events if len(event[3][0]) >= LARGE_VALUE_BYTES]


def pack(events: list[Event]) -> pb.StreamResponse:
    """One frame; a column whose values are all the default stays absent."""
    if not events:
        return pb.StreamResponse()
    handles, indices, kinds, rows = zip(*events, strict=True)
    payloads, rewards, flags, digests, infos = zip(*rows, strict=True)
    frame = pb.StreamResponse(handles=handles, indices=indices, payloads=payloads)
    if any(digests):
        frame.digests.extend(digests)
    if any(rewards):
        frame.rewards.extend(rewards)
    if any(flags):
        frame.flags.extend(flags)
    if any(infos):
        frame.infos.extend(infos)
    if kinds.count(OUTCOME) != len(kinds):
        frame.kinds.extend(kinds)
    return frame
