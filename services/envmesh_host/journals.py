"""What a journal says before anything is replayed (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from envmesh.errors import Refusal
from envmesh.journal import MOST_ENTRIES
from envmesh.v1 import environment_pb2 as pb

__all__ = ["JOURNAL_FORMAT", "Survey", "survey"]

JOURNAL_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Survey:
    """A journal at a glance.

    ``environment`` is the name@version that it is of. ``base`` is the step it begins at: 0 for a reset, or its last
    checkpoint's; ``last_index`` the step it leads to, ``last_action`` the action's bytes that led there (empty where
    that was a reset or is in a checkpoint) and ``last_digest`` that outcome's digest, None where it is not said.
    ``acts`` counts the steps, ``references`` says where in the store its checkpoints are.
    """

    environment: str
    base: int
    last_index: int
    last_action: bytes
    last_digest: int | None
    acts: int
    references: tuple[str, ...]
    checkpointed: bool
    reseeded: bool

    def describes(self, index: int, digest: int) -> bool:
        """Whether a live copy whose last outcome is this one is where the journal is, or one step ahead of it (whose
        reply was lost). A copy knows nothing of a change of its randomness, so a journal with one never describes it.
        """
        if self.reseeded:
            return False
        ahead = index - self.last_index
        return ahead == 1 or (ahead == 0 and self.last_digest in (None, digest))


def survey(journal: pb.Journal) -> Survey:
    """Look a journal through, once.

    Raises:
        Refusal: VERSION_MISMATCH for another format; MALFORMED when it begins with neither a reset nor a checkpoint,
            is too long, has a second reset, an entry of an unknown kind, or a checkpoint of another step than it stands
            at, or a stored one that is not its first entry.
    """
    if journal.format_version != JOURNAL_FORMAT:
        raise Refusal(
            f"the journal has format {journal.format_version}; this host reads {JOURNAL_FORMAT}",
            reason="VERSION_MISMATCH",
        )
    entries = journal.entries
    if len(entries) > MOST_ENTRIES:
        raise Refusal(
            f"the journal has {len(entries):,} entries; the bound is {MOST_ENTRIES:,}", reason="MALFORMED"
        )
    environment = _environment_of(entries[0] if entries else pb.JournalEntry())
    base, index, acts, action, reseeded = 0, -1, 0, b"", False
    digest: int | None = None
    references: list[str] = []
    checkpointed = False
    for place, entry in enumerate(entries):
        kind = entry.WhichOneof("entry")
        if kind == "act":
            index += 1
            acts += 1
            action, digest = entry.act, entry.digest
        elif kind == "reseed":
            reseeded = True
        elif kind == "checkpoint":
            sealed = entry.checkpoint
            if place and sealed.index != index:
                raise Refusal(
                    f"entry {place} of the journal is a checkpoint of step {sealed.index}, behind step {index}",
                    reason="MALFORMED",
                )
            if place and sealed.reference:
                raise Refusal(
                    f"entry {place} of the journal is a stored checkpoint; one that is stored stands first",
                    reason="MALFORMED",
                )
            base = index = sealed.index
            action, digest, checkpointed = b"", None, True
            if sealed.reference:
                references.append(sealed.reference)
        elif kind == "reset" and place == 0:
            index, digest = 0, entry.digest
        elif kind == "reset":
            raise Refusal(f"entry {place} of the journal is a second reset", reason="MALFORMED")
        else:
            raise Refusal(f"entry {place} of the journal is of an unknown kind", reason="MALFORMED")
    return Survey(environment, base, index, action, digest, acts, tuple(references), checkpointed, reseeded)


def _environment_of(first: pb.JournalEntry) -> str:
    if first.WhichOneof("entry") == "reset":
        return first.reset.environment
    if first.WhichOneof("entry") == "checkpoint":
        try:
            return pb.CheckpointContent.FromString(first.checkpoint.content).environment
        except DecodeError:
            raise Refusal("the checkpoint cannot be decoded", reason="MALFORMED") from None
    raise Refusal("a journal must begin with a reset or a checkpoint", reason="MALFORMED")
