"""Frames between host and worker: what goes in comes out, however the bytes are cut; garbage is a ValueError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.frames import (
    FrameReader,
    Replies,
    columns_of,
    refusal_of,
    request_frame,
    response_of,
)

ROWS = st.tuples(
    st.binary(max_size=50),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(0, 7),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=20),
)


@given(st.lists(st.tuples(st.integers(1, 9), ROWS), min_size=1, max_size=20), st.data())
def test_replies_arrive_as_they_were_given(rows, data):
    replies = Replies(1_000)
    for handle, row in rows:
        replies.add(handle, pb.COMMAND_KIND_STEP, row, 0.5)
    stream = replies.take() * 2
    assert not replies
    reader = FrameReader(response=True)
    frames: list[bytes] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        frames += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert len(frames) == 2
    for frame in frames:
        response, seconds = response_of(frame)
        assert [(columns[0], columns[1:]) for columns in columns_of(response)] == rows
        assert set(seconds) == {0.5}


def test_requests_arrive_cut_anywhere():
    requests = [pb.StreamRequest(handles=[number], payloads=[b"x" * number]) for number in range(1, 9)]
    stream = b"".join(map(request_frame, requests))
    for size in (1, 3, 7, len(stream)):
        reader, got = FrameReader(response=False), []
        for start in range(0, len(stream), size):
            got += [pb.StreamRequest.FromString(frame) for frame in reader.feed(stream[start : start + size])]
        assert got == requests


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error_or_nothing_yet(garbage):
    reader = FrameReader(response=True)
    try:
        for frame in reader.feed(garbage):
            response, _ = response_of(frame)
            if response.kinds:
                for payload in response.payloads:
                    refusal_of(payload)
    except ValueError:
        pass


def test_a_refusal_keeps_its_reason_and_detail():
    replies = Replies(1_000)
    replies.add(3, pb.COMMAND_KIND_STEP, Refusal("no", reason="REWARD_INVALID", detail="where"), 0.0)
    (frame,) = FrameReader(response=True).feed(replies.take())
    response, _ = response_of(frame)
    refusal = refusal_of(response.payloads[0])
    assert (refusal.args, refusal.reason, refusal.detail) == (("no",), "REWARD_INVALID", "where")


def test_an_outcome_over_the_bound_becomes_a_refusal():
    replies = Replies(100)
    replies.add(1, pb.COMMAND_KIND_STEP, (b"x" * 90, 0.0, 0, 0, b"y" * 11), 0.0)
    (frame,) = FrameReader(response=True).feed(replies.take())
    refusal = refusal_of(response_of(frame)[0].payloads[0])
    assert refusal.reason == "MESSAGE_TOO_LARGE"
    with pytest.raises(ValueError, match="a failure without a status"):
        refusal_of(b"\xff\xff")
