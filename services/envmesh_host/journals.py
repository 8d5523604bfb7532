"""What a journal says before anything is replayed (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from envmesh.errors import Refusal
from envmesh.journal import MOST_ENTRIES
from envmesh.v1 import environment_pb2 as pb
from envmesh.wire import MalformedValue, read_varint, section
from envmesh_host.parsing import SECTION, WHOLE_SIZES

__all__ = ["JOURNAL_FORMAT", "Survey", "check_length", "saved_environment", "survey"]

JOURNAL_FORMAT = 1
MOST_FIELDS = MOST_ENTRIES + 100
"""Of a request to resume and of its journal together: its entries, and a few more."""

_JOURNAL = pb.ResumeRequest.DESCRIPTOR.fields_by_name["journal"].number
_SAVED_ENVIRONMENT = pb.CheckpointContent.DESCRIPTOR.fields_by_name["environment"].number
_SAVED_FIELDS = len(pb.CheckpointContent.DESCRIPTOR.fields)


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


def check_length(request: bytes) -> None:
    """Refuse a serialized ``ResumeRequest`` with too long a journal before anything is made of it: what has two bytes
    here takes a hundred once it is parsed. ``survey`` counts exactly.

    Raises:
        Refusal: MALFORMED.
    """
    if len(request) <= 2 * MOST_FIELDS:
        return
    fields = _fields(request, 0, len(request))
    all_fields = chain.from_iterable(
        chain(((number, start, stop),), _fields(request, start, stop) if number == _JOURNAL else ())
        for number, start, stop in fields
    )
    if next(islice(all_fields, MOST_FIELDS, None), None) is not None:
        raise Refusal(
            f"the journal has more than the {MOST_ENTRIES:,} entries of the bound", reason="MALFORMED"
        )


def _fields(message: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and stop of each field of a serialized message, up to where it is none: a parser gets no further.
    What is in a group counts as if it were beside it."""
    try:
        while at < stop:
            tag, at = read_varint(message, at)
            start = at
            if tag & 7 == SECTION:
                start, at = section(message, at, stop)
            elif tag & 7 == 0:
                _, at = read_varint(message, at)
            else:
                at += WHOLE_SIZES.get(tag & 7, 0)
            yield tag >> 3, start, at
    except (IndexError, MalformedValue):
        return


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
        return saved_environment(first.checkpoint.content)
    raise Refusal("a journal must begin with a reset or a checkpoint", reason="MALFORMED")


def saved_environment(content: bytes) -> str:
    """The name@version in a serialized ``CheckpointContent``, empty where there is none. Nothing else of it is looked
    at: its seal says whether it is ours, and what is not ours is not parsed. Raises: Refusal MALFORMED."""
    for number, start, stop in islice(_fields(content, 0, len(content)), _SAVED_FIELDS):
        if number == _SAVED_ENVIRONMENT:
            try:
                return content[start:stop].decode()
            except UnicodeDecodeError:
                raise Refusal("the checkpoint cannot be decoded", reason="MALFORMED") from None
    return ""
