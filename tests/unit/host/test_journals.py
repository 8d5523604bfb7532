"""What a journal says at a glance, and which are none."""

import pytest

from envmesh.errors import Refusal
from envmesh.journal import MOST_ENTRIES
from envmesh.v1 import environment_pb2 as pb
from envmesh.wire import varint
from envmesh_host.journals import check_length, survey


def journal(*entries: pb.JournalEntry, version: int = 1) -> pb.Journal:
    return pb.Journal(format_version=version, entries=entries)


RESET = pb.JournalEntry(reset=pb.ResetEntry(environment="walk@1", seed=3), digest=7)
RESEED = pb.JournalEntry(reseed=5)


def act(action: bytes = b"a", digest: int = 9) -> pb.JournalEntry:
    return pb.JournalEntry(act=action, digest=digest)


def checkpoint(index: int, reference: str = "") -> pb.JournalEntry:
    content = pb.CheckpointContent(environment="walk@1").SerializeToString()
    return pb.JournalEntry(checkpoint=pb.SealedCheckpoint(index=index, content=content, reference=reference))


def test_from_a_reset():
    seen = survey(journal(RESET, act(b"x"), act(b"y", 11)))
    assert (seen.environment, seen.base, seen.last_index, seen.acts) == ("walk@1", 0, 2, 2)
    assert (seen.last_action, seen.last_digest, seen.checkpointed) == (b"y", 11, False)


def test_from_a_checkpoint():
    seen = survey(journal(checkpoint(40, "somewhere"), act(b"x")))
    assert (seen.environment, seen.base, seen.last_index, seen.acts) == ("walk@1", 40, 41, 1)
    assert (seen.references, seen.checkpointed) == (("somewhere",), True)


def test_from_a_checkpoint_in_the_middle():
    seen = survey(journal(RESET, act(), checkpoint(1), act(b"z")))
    assert (seen.base, seen.last_index, seen.acts, seen.last_action) == (1, 2, 2, b"z")


def test_a_copy_is_where_the_journal_is_or_one_step_ahead():
    seen = survey(journal(RESET, act(digest=11)))
    assert seen.describes(1, 11)
    assert not seen.describes(1, 12)
    assert seen.describes(2, 99)
    assert not seen.describes(3, 99)
    assert not seen.describes(0, 7)
    assert survey(journal(checkpoint(4))).describes(4, 1)
    assert not survey(journal(RESET, RESEED, act(digest=11))).describes(1, 11)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ((), "must begin with a reset or a checkpoint"),
        ((act(),), "must begin with a reset or a checkpoint"),
        ((RESEED, RESET), "must begin with a reset or a checkpoint"),
        ((RESET, act(), RESET), "entry 2 of the journal is a second reset"),
        ((checkpoint(1), RESET), "entry 1 of the journal is a second reset"),
        ((RESET, pb.JournalEntry()), "entry 1 of the journal is of an unknown kind"),
        ((RESET, act(), checkpoint(5)), "entry 2 of the journal is a checkpoint of step 5, behind step 1"),
        ((RESET, act(), checkpoint(1, "there")), "one that is stored stands first"),
    ],
)
def test_what_is_no_journal(entries, words):
    with pytest.raises(Refusal, match=words) as refused:
        survey(journal(*entries))
    assert refused.value.reason == "MALFORMED"


def test_another_format():
    with pytest.raises(Refusal, match="format 2; this host reads 1") as refused:
        survey(journal(RESET, version=2))
    assert refused.value.reason == "VERSION_MISMATCH"


def test_an_absurd_length_is_refused_before_it_is_looked_through():
    absurd = journal(RESET)
    absurd.entries.extend([RESET] * MOST_ENTRIES)
    with pytest.raises(Refusal, match=f"has {MOST_ENTRIES + 1:,} entries; the bound is {MOST_ENTRIES:,}"):
        survey(absurd)


def test_an_absurd_length_is_told_from_the_bytes():
    begun = pb.ResumeRequest(episode_id=b"e" * 16, journal=journal(RESET)).SerializeToString()
    entries = b"\x12\x00" * MOST_ENTRIES

    def of_journal(body: bytes, times: int = 1) -> bytes:
        fields = pb.ResumeRequest.DESCRIPTOR.fields_by_name
        return begun + (bytes([fields["journal"].number << 3 | 2]) + varint(len(body)) + body) * times

    half = entries[: MOST_ENTRIES + 2 * 100]
    for absurd in (
        of_journal(entries + b"\x12\x00" * 100),
        of_journal(half, 2),
        of_journal(b"\x13" + entries + b"\x12\x00" * 100),
        begun + b"\x7a\x00" * (MOST_ENTRIES + 100),
    ):
        with pytest.raises(Refusal, match="more than the 250,000 entries") as refused:
            check_length(absurd)
        assert refused.value.reason == "MALFORMED"


def test_a_journal_at_the_bound_is_not_too_long():
    longest = pb.ResumeRequest(
        episode_id=b"e" * 16,
        epoch=1,
        client_id=b"c" * 16,
        journal=journal(RESET),
        lease=bytes(500),
        apart=True,
    )
    longest.journal.entries.extend([act()] * (MOST_ENTRIES - 1))
    check_length(longest.SerializeToString())
    check_length(b"\xff" * 1_000_000)  # what it is, protobuf says
    check_length(pb.ResumeRequest(attach_token=bytes(1_000_000)).SerializeToString())
