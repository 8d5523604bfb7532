"""What a journal says before anything is replayed (pure)."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb

__all__ = ["base_index", "describes", "environment_of", "last_action", "last_index", "references_of"]


def environment_of(journal: pb.Journal) -> str:
    """The name@version that a journal is of.

    Raises:
        Refusal: MALFORMED when it begins with neither a reset nor a checkpoint.
    """
    first = journal.entries[0] if journal.entries else pb.JournalEntry()
    if first.WhichOneof("entry") == "reset":
        return first.reset.environment
    if first.WhichOneof("entry") == "checkpoint":
        try:
            return pb.CheckpointContent.FromString(first.checkpoint.content).environment
        except DecodeError:
            raise Refusal("the checkpoint cannot be decoded", reason="MALFORMED") from None
    raise Refusal("a journal must begin with a reset or a checkpoint", reason="MALFORMED")


def base_index(journal: pb.Journal) -> int:
    """The step index that a journal begins at: 0 for a reset, or its last checkpoint's."""
    return max(
        (e.checkpoint.index for e in journal.entries if e.WhichOneof("entry") == "checkpoint"), default=0
    )


def references_of(journal: pb.Journal) -> tuple[str, ...]:
    """Where in the store the checkpoints of a journal are."""
    return tuple(
        entry.checkpoint.reference
        for entry in journal.entries
        if entry.WhichOneof("entry") == "checkpoint" and entry.checkpoint.reference
    )


def last_index(journal: pb.Journal) -> int:
    """The step index that a journal leads to."""
    index = -1
    for entry in journal.entries:
        kind = entry.WhichOneof("entry")
        if kind == "checkpoint":
            index = entry.checkpoint.index
        elif kind in ("reset", "act"):
            index += 1
    return index


def last_action(journal: pb.Journal) -> bytes:
    """The bytes of the action that led to the last outcome; empty where that was a reset or is in a checkpoint."""
    for entry in reversed(journal.entries):
        if entry.WhichOneof("entry") != "reseed":
            return entry.act
    return b""


def describes(journal: pb.Journal, index: int, digest: int) -> bool:
    """Whether a live copy whose last outcome is this one is where the journal is, or one step ahead of it (whose
    reply was lost). A copy knows nothing of a change of its randomness, so a journal with one never describes it."""
    kinds = [entry.WhichOneof("entry") for entry in journal.entries]
    if "reseed" in kinds:
        return False
    ahead = index - last_index(journal)
    return ahead == 1 or (ahead == 0 and (kinds[-1] == "checkpoint" or journal.entries[-1].digest == digest))
