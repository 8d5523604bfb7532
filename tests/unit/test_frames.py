"""What goes into one frame, either way: the oldest rows, in their order, so many at most, so many bytes at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from envmesh.frame_bounds import most_rows, rows_within
from envmesh.outgoing import Outgoing
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.outbox import Outbox

MOST_BYTES = 1000
SIZES = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 1500)), max_size=200)


@given(st.integers(1, 2000), SIZES)
def test_rows_within(most: int, sizes: list[int]):
    rows = rows_within(most, sizes)
    assert rows >= 1
    assert rows == 1 or sum(sizes[:rows]) <= most
    assert rows >= len(sizes) or sum(sizes[: rows + 1]) > most


def taken(
    count: Callable[[], int], take: Callable[[], bytes], kind: Any, open_episodes: int
) -> list[tuple[int, bytes, bytes]]:
    """All rows, frame by frame, each frame within its bounds."""
    rows: list[tuple[int, bytes, bytes]] = []
    while before := count():
        frame = kind.FromString(take())
        infos = list(getattr(frame, "infos", ())) or [b""] * len(frame.handles)
        payloads = list(frame.payloads) or [b""] * len(frame.handles)
        assert 1 <= len(frame.handles) <= most_rows(open_episodes)
        assert count() == before - len(frame.handles)
        size = sum(map(len, payloads)) + sum(map(len, infos))
        assert size <= MOST_BYTES or len(frame.handles) == 1
        rows += zip(frame.handles, payloads, infos, strict=True)
    return rows


@given(SIZES, st.integers(1, 500))
def test_commands(sizes: list[int], open_episodes: int):
    outgoing = Outgoing(MOST_BYTES)
    half = len(sizes) // 2
    for handle, size in enumerate(sizes[:half]):
        outgoing.add(handle, 1, pb.COMMAND_KIND_STEP, bytes(size))
    outgoing.extend(
        range(half, len(sizes)), [1] * (len(sizes) - half), [bytes(size) for size in sizes[half:]]
    )

    def take() -> bytes:
        return (
            outgoing.take_alone() if len(outgoing) == 1 else outgoing.take(open_episodes).SerializeToString()
        )

    rows = taken(outgoing.__len__, take, pb.StreamRequest, open_episodes)
    assert [(handle, len(payload)) for handle, payload, _ in rows] == list(enumerate(sizes))


@given(SIZES, SIZES, st.integers(1, 500))
def test_events(sizes: list[int], infos: list[int], open_episodes: int):
    infos = (infos + [0] * len(sizes))[: len(sizes)]
    outbox = Outbox(MOST_BYTES)
    half = len(sizes) // 2
    for handle in range(half):
        row = (bytes(sizes[handle]), 0.0, 0, 0, bytes(infos[handle]))
        outbox.add(handle, 1, pb.EVENT_KIND_OUTCOME, row)
    rest = range(half, len(sizes))
    payloads = [bytes(sizes[handle]) for handle in rest]
    zeros = [0] * len(rest)
    outcomes = (payloads, list(map(float, zeros)), zeros, zeros, [bytes(infos[handle]) for handle in rest])
    outbox.extend(rest, zeros, outcomes, sum(sizes[half:]) + sum(infos[half:]))
    assert outbox.total_bytes == sum(sizes) + sum(infos)

    def take() -> bytes:
        return outbox.take_alone(0) if len(outbox) == 1 else outbox.take(open_episodes).SerializeToString()

    rows = taken(outbox.__len__, take, pb.StreamResponse, open_episodes)
    assert [(handle, len(payload), len(info)) for handle, payload, info in rows] == [
        (handle, sizes[handle], infos[handle]) for handle in range(len(sizes))
    ]
    assert outbox.total_bytes == 0
