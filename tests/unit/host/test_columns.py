"""The rows of a request: what is no frame is refused before anything is made of it."""

import tracemalloc

import pytest

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.columns import MAX_ROWS, Columns

ABSURD = 1_000_000


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pb.StreamRequest(handles=[1] * ABSURD), f"at most {MAX_ROWS} rows; this has {ABSURD}"),
        (pb.StreamRequest(handles=[1], indices=[1] * ABSURD), "columns disagree: 1 handles"),
        (pb.StreamRequest(handles=[1], payloads=[b""] * ABSURD), "columns disagree: 1 handles"),
        (pb.StreamRequest(kinds=[pb.COMMAND_KIND_STEP] * ABSURD), "columns disagree: 0 handles"),
        (pb.StreamRequest(handles=[1], timeouts=[1] * ABSURD), "columns disagree: 1 handles"),
    ],
    ids=["handles", "indices", "payloads", "kinds", "timeouts"],
)
def test_a_frame_of_a_million_rows_is_refused_before_there_are_lists_of_them(frame, words):
    tracemalloc.start()
    try:
        with pytest.raises(Refusal, match=words) as refused:
            Columns(frame, 0.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.reason == "MALFORMED"
    assert peak < ABSURD, "a list of them has 8 bytes for each"


def test_a_column_that_is_absent_has_its_default_in_every_row():
    columns = Columns(pb.StreamRequest(handles=range(1, MAX_ROWS + 1)), 0.0)
    assert (columns.count, len(columns.steps.handles)) == (MAX_ROWS, MAX_ROWS)
    assert columns.indices == [0] * MAX_ROWS
    assert columns.payloads == [b""] * MAX_ROWS
    assert columns.kinds is columns.timeouts is None
