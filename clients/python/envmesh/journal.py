"""An episode's journal: how it came to be where it is, as packed bytes (pure).

The bytes are those of the repeated field ``entries`` of ``envmesh.v1.Journal``, written as the episode goes: what a
host replays is the buffer itself behind a format version.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from envmesh.v1 import environment_pb2 as pb
from envmesh.wire import varint

__all__ = ["FORMAT_VERSION", "MOST_ENTRIES", "Journal"]

FORMAT_VERSION = 1
MOST_ENTRIES = 250_000
"""A longer journal is refused: to look through one of this length takes a host about a tenth of a second."""

_ENTRY = 0x12  # Journal.entries = 2, length-delimited
_ACT = 0x12  # JournalEntry.act = 2, length-delimited
_DIGEST = Struct("<BQ").pack  # JournalEntry.digest = 5, fixed64
_DIGEST_TAG = 0x29
_DIGEST_BYTES = 9
_HEADER = bytes((0x08, FORMAT_VERSION))  # Journal.format_version = 1


class Journal:
    """What was done in an episode so far. ``steps`` counts its actions since the last checkpoint, ``base`` the step
    index that checkpoint was taken after (0: since the reset). Once ``overflowed`` it holds none of them, and goes on
    counting: only a checkpoint of the present step says how to come there."""

    __slots__ = ("_entries", "base", "limit", "overflowed", "steps")

    def __init__(self, limit: int = 16 << 20):
        self._entries = bytearray()
        self.steps = 0
        self.base = 0
        self.limit = limit
        self.overflowed = False

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def of(
        cls,
        reset: pb.ResetEntry,
        digests: Sequence[int],
        actions: Sequence[bytes],
        sealed: pb.SealedCheckpoint | None,
    ) -> Journal:
        """That of an episode of which everything is known: the digests of its reset's outcome and its steps', its
        actions (the last perhaps without an outcome), and the last checkpoint, where there is one."""
        journal = cls()
        journal.begin(reset, digests[0])
        first = 0
        if sealed is not None:
            journal.base = first = sealed.index
            journal.checkpoint(sealed)
        for action, digest in zip(actions[first:], digests[first + 1 :], strict=False):
            journal.act(action, digest)
        return journal

    def begin(self, reset: pb.ResetEntry, digest: int) -> None:
        """The episode began."""
        self._entries.clear()
        self.steps = self.base = 0
        self._append(pb.JournalEntry(reset=reset, digest=digest))

    def act(self, action: bytes, digest: int) -> None:
        """A step was done. ``action`` are the serialized Value's bytes."""
        self.steps += 1
        if self.overflowed:
            return
        size = len(action)
        head = _act_head(size) if size >= len(_HEADS) else _HEADS[size]
        entries = self._entries
        entries += head
        entries += action
        entries += _DIGEST(_DIGEST_TAG, digest)
        if len(entries) > self.limit or self.steps >= MOST_ENTRIES - 2:  # with room for a reset and a reseed
            self._overflow()

    def reseed(self, seed: int) -> None:
        """The future's randomness was changed."""
        self._append(pb.JournalEntry(reseed=seed))

    def checkpoint(self, sealed: pb.SealedCheckpoint) -> None:
        """The state at a step is known: what came before is not needed any more. One of a step that the journal does
        not hold is left."""
        first = self.index if self.overflowed else self.base
        if not first <= sealed.index <= self.index:
            return
        later = self._after(sealed.index)
        self._entries.clear()
        self.overflowed = False
        self.steps, self.base = 0, sealed.index
        self._append(pb.JournalEntry(checkpoint=sealed))
        for entry in later:
            self.steps += entry.WhichOneof("entry") == "act"
            self._append(entry)

    def _after(self, index: int) -> list[pb.JournalEntry]:
        """The entries behind step ``index``."""
        if index == self.index:
            return []
        entries = self.message().entries
        acts = [place for place, entry in enumerate(entries) if entry.WhichOneof("entry") == "act"]
        return list(entries[acts[index - self.base] :])

    @property
    def index(self) -> int:
        """The step index it leads to."""
        return self.base + self.steps

    def message(self) -> pb.Journal:
        """The form that a host replays."""
        return pb.Journal.FromString(self.packed())

    def packed(self) -> bytes:
        """The serialized ``envmesh.v1.Journal``."""
        return _HEADER + bytes(self._entries)

    @classmethod
    def unpacked(cls, packed: bytes, limit: int = 16 << 20) -> Journal:
        """A journal from its packed bytes.

        Raises:
            ValueError: they are none, or of another format version.
        """
        try:
            message = pb.Journal.FromString(packed)
        except Exception as error:
            raise ValueError(f"not a journal: {error}") from None
        if message.format_version != FORMAT_VERSION:
            raise ValueError(
                f"a journal of format {message.format_version}; this client reads {FORMAT_VERSION}"
            )
        journal = cls(limit)
        for entry in message.entries:
            kind = entry.WhichOneof("entry")
            journal._append(entry)
            if kind == "act":
                journal.steps += 1
            elif kind == "checkpoint":
                journal.steps, journal.base = 0, entry.checkpoint.index
        return journal

    def _append(self, entry: pb.JournalEntry) -> None:
        data = entry.SerializeToString(deterministic=True)
        self._entries += bytes((_ENTRY,)) + varint(len(data)) + data

    def _overflow(self) -> None:
        """At the bound the episode goes on and can no longer be recovered."""
        self.overflowed = True
        self._entries.clear()


def _act_head(size: int) -> bytes:
    act = bytes((_ACT,)) + varint(size)
    return bytes((_ENTRY,)) + varint(len(act) + size + _DIGEST_BYTES) + act


_HEADS = [_act_head(size) for size in range(512)]
