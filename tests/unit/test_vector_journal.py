"""The journals of a vector's episodes: each its own, however the frames lay, and honest about its bound."""

import numpy as np

from envmesh.v1 import environment_pb2 as pb
from envmesh.vector_journal import VectorJournal

MEBIBYTE = 1 << 20


def journals(count: int) -> VectorJournal:
    """Episode i begins with seed i."""
    return VectorJournal(count, lambda number: pb.ResetEntry(environment="walk@1", seed=number))


def begun(count: int) -> VectorJournal:
    made, everybody = journals(count), np.arange(count)
    made.begin(everybody)
    made.received(everybody, [1] * count)
    return made


def step(kept: VectorJournal, numbers: list[int], action: bytes, digest: int) -> None:
    kept.sent(np.array(numbers), [action] * len(numbers))
    kept.received(np.array(numbers), [digest] * len(numbers))


def test_a_journal_goes_on_after_somebody_has_looked():
    kept = begun(2)
    for digest in (2, 3, 4):
        step(kept, [1, 0], b"\x08\x01", digest)
        assert kept.journal(1)[0].index == digest - 1
    entries = kept.journal(1)[0].message().entries
    assert entries[0].reset.seed == 1
    assert [entry.digest for entry in entries] == [1, 2, 3, 4]
    assert kept.journal(0)[0].index == 3
    kept.sent(np.array([1]), [b"next"])
    assert kept.journal(1)[1] == b"next"


def test_one_that_has_become_too_long_is_held_no_more_and_another_is():
    kept = begun(2)
    assert kept.holds(0)
    for digest in range(17):
        step(kept, [0], b"a" * MEBIBYTE, digest)
        step(kept, [1], b"b", digest)
    assert not kept.holds(0)
    assert kept.holds(1)
    step(kept, [0], b"c", 99)
    assert not kept.holds(0), "what comes later does not begin it anew"
    kept.begin(np.array([0]))
    kept.received(np.array([0]), [1])
    assert kept.holds(0)


def test_nothing_is_held_of_one_that_is_over():
    kept = begun(1)
    kept.forget(0)
    assert not kept.holds(0)
