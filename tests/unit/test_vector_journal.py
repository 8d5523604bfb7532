"""The journals of a vector's episodes: each its own, however the frames lay, and honest about its bound."""

import numpy as np
import pytest

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


def saved(index: int) -> pb.SealedCheckpoint:
    return pb.SealedCheckpoint(index=index)


@pytest.mark.parametrize("early", [False, True])
def test_one_that_has_become_too_long_is_held_again_from_the_next_checkpoint(early: bool):
    kept = begun(1)
    for digest in range(17):
        step(kept, [0], b"a" * MEBIBYTE, digest)
    assert not kept.holds(0)
    kept.checkpoint(0, saved(17 + early))
    step(kept, [0], b"b", 18)
    assert kept.holds(0)
    journal = kept.journal(0)[0]
    assert (journal.base, journal.index) == (17 + early, 18)


def test_a_checkpoint_that_comes_before_its_outcome_is_adopted_with_it():
    kept = begun(2)
    kept.sent(np.array([0, 1]), [b"a", b"b"])
    kept.checkpoint(0, saved(1))
    assert kept.journal(0)[0].base == 0
    kept.received(np.array([1]), [2])
    assert kept.journal(0)[0].base == 0
    kept.received(np.array([0]), [2])
    journal = kept.journal(0)[0]
    assert (journal.base, journal.index) == (1, 1)
    step(kept, [0], b"c", 3)
    journal = kept.journal(0)[0]
    assert (journal.base, journal.index) == (1, 2)


def test_the_checkpoint_of_a_reset_comes_before_its_outcome_and_one_of_the_episode_before_is_left():
    kept = begun(1)
    kept.begin(np.array([0]))
    kept.checkpoint(0, saved(4))
    kept.checkpoint(0, pb.SealedCheckpoint(index=0, seal=b"its own"))
    kept.received(np.array([0]), [1])
    assert kept.journal(0)[0].message().entries[0].checkpoint.seal == b"its own"
    step(kept, [0], b"a", 2)
    assert kept.journal(0)[0].index == 1


@pytest.mark.parametrize("what", ["its copy is lost", "it begins anew", "it is over"])
def test_a_checkpoint_whose_outcome_never_comes_is_not_adopted(what: str):
    kept = begun(1)
    kept.sent(np.array([0]), [b"a"])
    kept.checkpoint(0, saved(1))
    if what == "its copy is lost":
        kept.copy_lost(0)
    else:
        if what == "it is over":
            kept.forget(0)
        kept.begin(np.array([0]))
        kept.received(np.array([0]), [1])
        kept.sent(np.array([0]), [b"a"])
    kept.received(np.array([0]), [5])
    journal = kept.journal(0)[0]
    assert (journal.base, journal.index) == (0, 1)


def test_nothing_is_held_of_one_that_is_over():
    kept = begun(1)
    kept.forget(0)
    assert not kept.holds(0)
