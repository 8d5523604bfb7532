"""Which checkpoints of an episode have to stay in the store (pure).

A stored checkpoint is needed until the client is known to hold a newer one. It is known to when it has acted on an
outcome that was told after the checkpoint: a stream keeps the order of an episode's events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["NEVER", "Stored", "known_from", "retold", "without_outdated"]

NEVER = 1 << 62
"""``held_from`` of a checkpoint that its client was perhaps never told of."""


class Stored(NamedTuple):
    """A checkpoint in the store. Once the episode has come to step ``held_from``, its client holds it for certain."""

    reference: str
    held_from: int


def known_from(index: int) -> int:
    """From which step on a client certainly holds what it was told of after step ``index``: the outcome of the next
    step comes behind it, and the step after that answers to the outcome."""
    return index + 2


def without_outdated(stored: Sequence[Stored], index: int) -> tuple[tuple[str, ...], tuple[Stored, ...]]:
    """The references that nobody needs any more at step ``index``, and what stays; oldest first."""
    held = max((place for place, each in enumerate(stored) if each.held_from <= index), default=0)
    return tuple(each.reference for each in stored[:held]), tuple(stored[held:])


def retold(stored: Sequence[Stored], references: Sequence[str], index: int) -> tuple[Stored, ...]:
    """The same after a client came back whose journal names these ``references``: what it was told on another
    connection may not have reached it."""
    return tuple(
        Stored(each.reference, 0)
        if each.reference in references or each.held_from <= index
        else Stored(each.reference, NEVER)
        for each in stored
    )
