"""A journal written anew says of what goes on what it said before, and nothing of what is over."""

import json

from hypothesis import given
from hypothesis import strategies as st

from envmesh.journal_records import (
    ACT,
    ANNOTATION,
    BEGIN,
    CHECKPOINT,
    DONE,
    END,
    MAGIC,
    OUTCOME,
    OWNER,
    PLACE,
    Contents,
    annotation_body,
    needed,
    outcome_body,
    owner_body,
    record,
    records,
)

HAPPENINGS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(["step", "again", "save", "move", "end", "done", "forget"])),
    max_size=80,
)


def written(happenings) -> bytes:
    """A journal of these happenings, each to an episode: a key that is done comes back as another."""
    parts = [MAGIC, record(OWNER, 0, owner_body(3, b"c" * 16))]
    keys: dict[int, int] = {}
    steps: dict[int, int] = {}
    for number, (name, what) in enumerate(happenings):
        key = keys.setdefault(name, number + 1)
        if key not in steps:
            steps[key] = 0
            parts.append(record(BEGIN, key, json.dumps({"run": "r", "number": number}).encode()))
            parts.append(record(OUTCOME, key, outcome_body((b"reset", 0.0, 0, key, b""))))
        if what == "step":
            steps[key] += 1
            parts.append(record(ACT, key, b"act %d" % number))
            parts.append(record(ANNOTATION, key, annotation_body(steps[key], {"number": number})))
            parts.append(record(OUTCOME, key, outcome_body((b"went", 1.5, 0, number, b"info"))))
        elif what == "again":
            parts.append(record(ACT, key, b"sent again %d" % number))
        elif what == "save":
            parts.append(record(CHECKPOINT, key, b"saved %d" % number))
        elif what == "move":
            parts.append(record(PLACE, key, json.dumps(["address", str(number), ["k", "v"]]).encode()))
        elif what == "end":
            parts.append(record(END, key, json.dumps({"number": number}).encode()))
        else:
            said = {"run": "r" * (what == "done"), "numbers": [number] * (what == "done")}
            parts.append(record(DONE, key, json.dumps(said).encode()))
            del keys[name]
    return b"".join(parts)


def read(data: bytes) -> Contents:
    contents = Contents()
    for _, kind, key, body in records(memoryview(data)):
        contents.apply(kind, key, bytes(body))
    return contents


@given(HAPPENINGS)
def test_what_is_needed_says_the_same_of_all_that_goes_on(happenings):
    data = written(happenings)
    anew = b"".join(needed(memoryview(data), owner_body(4, b"c" * 16)))
    before, after = read(data), read(anew)
    assert (after.unfinished, after.done) == (before.unfinished, before.done)
    assert (after.owner, after.client_id) == (4, b"c" * 16)
    assert b"".join(needed(memoryview(anew), owner_body(4, b"c" * 16))) == anew
    kinds = [(kind, key) for _, kind, key, _ in records(memoryview(anew)) if kind in (CHECKPOINT, PLACE)]
    assert len(kinds) == len(set(kinds))


@given(HAPPENINGS, st.integers(0, 80))
def test_what_comes_after_is_read_on_top(happenings, cut):
    """The happenings up to a point are written anew, and what has come since is added as it was."""
    data = written(happenings)
    ends = [at for at, *_ in records(memoryview(data))] + [len(data)]
    end = ends[min(cut + 1, len(ends) - 1)]
    anew = b"".join(needed(memoryview(data)[:end], owner_body(3, b"c" * 16))) + data[end:]
    assert (read(anew).unfinished, read(anew).done) == (read(data).unfinished, read(data).done)


@given(HAPPENINGS, st.integers(0, 5_000))
def test_a_torn_file_counts_up_to_where_it_is_whole(happenings, torn):
    data = written(happenings)
    torn = min(torn, len(data))
    ends = [*(at for at, *_ in records(memoryview(data))), len(data)]
    whole = max((end for end in ends if end <= torn), default=0)
    anew = b"".join(needed(memoryview(data)[:torn], owner_body(3, b"c" * 16)))
    assert read(anew).unfinished == read(data[:whole]).unfinished


def test_episodes_that_are_dropped_leave_nothing():
    data = written([(1, "step"), (2, "step")])
    anew = b"".join(needed(memoryview(data), owner_body(3, b"c" * 16), dropped={1}))
    assert list(read(anew).unfinished) == [2]
