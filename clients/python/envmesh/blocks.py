"""Blocks: many episodes of one connection that take their rows as whole columns of a frame (pure)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from typing import Protocol, TypeAlias

from envmesh.lone_frames import Outcome
from envmesh.v1 import environment_pb2 as pb

__all__ = [
    "Block",
    "Columns",
    "columns_of",
    "deliver_to_a_block",
    "deliver_to_blocks",
]

Columns: TypeAlias = tuple[
    list[int], list[int], list[bytes], list[float], list[int], list[int], list[bytes], "list[int] | None"
]
"""Handles, indices, payloads, rewards, flags, digests, infos; kinds, or None where all are outcomes."""


def columns_of(frame: pb.StreamResponse, handles: list[int]) -> Columns:
    """The columns of a frame with these handles; one that is absent is of defaults."""
    count = len(handles)
    return (
        handles,
        list(frame.indices) or [0] * count,
        list(frame.payloads) or [b""] * count,
        list(frame.rewards) or [0.0] * count,
        list(frame.flags) or [0] * count,
        list(frame.digests) or [0] * count,
        list(frame.infos) or [b""] * count,
        list(map(int, frame.kinds)) or None,
    )


class Block(Protocol):
    """Whom whole columns are for: episodes that are stepped together."""

    owns: Callable[[object], bool]
    """Whether rows of this handle are for this block; asked for every row."""

    def on_columns(self, columns: Columns) -> None:
        """Rows came, all of them this block's; whether their indices are expected is for the block to see."""
        ...

    def on_outcome(
        self, handle: int, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """An outcome came by itself: as ``on_columns``, without making columns of it."""
        ...


def deliver_to_a_block(blocks: list[Block], handle: int, outcome: Outcome) -> bool:
    """Give an outcome to the block that it is for. Returns whether there is one."""
    for block in blocks:
        if block.owns(handle):
            block.on_outcome(handle, *outcome)
            return True
    return False


def deliver_to_blocks(blocks: list[Block], columns: Columns) -> Columns | None:
    """Give each block its rows. Returns those that are nobody's, None where there are none."""
    for block in tuple(blocks):
        owned = list(map(block.owns, columns[0]))
        if all(owned):
            block.on_columns(columns)
            return None
        if any(owned):
            block.on_columns(_selected(columns, owned))
            columns = _selected(columns, [not mine for mine in owned])
    return columns


def _selected(columns: Columns, chosen: list[bool]) -> Columns:
    handles, indices, payloads, rewards, flags, digests, infos, kinds = columns
    return (
        list(compress(handles, chosen)),
        list(compress(indices, chosen)),
        list(compress(payloads, chosen)),
        list(compress(rewards, chosen)),
        list(compress(flags, chosen)),
        list(compress(digests, chosen)),
        list(compress(infos, chosen)),
        None if kinds is None else list(compress(kinds, chosen)),
    )
