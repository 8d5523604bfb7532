"""An episode's journal: the bytes are those of the message, and its bounds are the hosts'."""

import pytest

from envmesh.journal import MOST_ENTRIES, Journal
from envmesh.v1 import environment_pb2 as pb

ACTION = b"\x08\x01"


@pytest.fixture
def journal():
    begun = Journal()
    begun.begin(pb.ResetEntry(environment="walk@1", seed=1), 1)
    return begun


def test_its_bytes_are_the_message(journal):
    for digest in (2, 3):
        journal.act(ACTION, digest)
    journal.reseed(9)
    message = journal.message()
    assert [entry.WhichOneof("entry") for entry in message.entries] == ["reset", "act", "act", "reseed"]
    assert [entry.digest for entry in message.entries][:3] == [1, 2, 3]
    again = Journal.unpacked(journal.packed())
    assert (again.packed(), again.index) == (journal.packed(), 2)


def test_a_checkpoint_replaces_what_came_before_it_and_keeps_what_came_after(journal):
    for digest in range(2, 7):
        journal.act(ACTION, digest)
    journal.checkpoint(pb.SealedCheckpoint(index=3, content=b"here"))
    entries = journal.message().entries
    assert [entry.WhichOneof("entry") for entry in entries] == ["checkpoint", "act", "act"]
    assert [entry.digest for entry in entries[1:]] == [5, 6]
    assert (journal.base, journal.index) == (3, 5)


def test_a_checkpoint_of_a_step_that_it_does_not_hold_is_left(journal):
    before = journal.packed()
    journal.checkpoint(pb.SealedCheckpoint(index=4, content=b"later"))
    assert journal.packed() == before


def test_what_is_too_long_in_bytes_can_be_recovered_again_from_the_next_checkpoint():
    journal = Journal(limit=1000)
    journal.begin(pb.ResetEntry(environment="walk@1", seed=1), 1)
    for digest in range(100):
        journal.act(ACTION, digest)
    assert journal.overflowed
    journal.checkpoint(pb.SealedCheckpoint(index=100, content=b"all"))
    assert not journal.overflowed
    assert journal.index == 100


def test_what_is_too_long_is_not_recovered_from_a_checkpoint_that_is_told_late():
    journal = Journal(limit=1000)
    journal.begin(pb.ResetEntry(environment="walk@1", seed=1), 1)
    for digest in range(100):
        journal.act(ACTION, digest)
    journal.checkpoint(pb.SealedCheckpoint(index=98, content=b"the two steps after it are not held"))
    assert journal.overflowed
    journal.act(ACTION, 100)
    journal.checkpoint(pb.SealedCheckpoint(index=101, content=b"all"))
    journal.act(ACTION, 101)
    assert not journal.overflowed
    assert [entry.WhichOneof("entry") for entry in journal.message().entries] == ["checkpoint", "act"]
    assert (journal.base, journal.index) == (101, 102)


def test_a_journal_that_no_host_would_take_says_so(journal):
    for _ in range(MOST_ENTRIES - 3):
        journal.act(ACTION, 2)
    assert not journal.overflowed
    assert len(journal.message().entries) < MOST_ENTRIES
    journal.act(ACTION, 2)
    assert journal.overflowed


@pytest.mark.parametrize("packed", [b"\xff\xff", pb.Journal(format_version=9).SerializeToString()])
def test_what_is_no_journal_is_refused(packed):
    with pytest.raises(ValueError, match="journal"):
        Journal.unpacked(packed)
