"""The episodes of a vector that one connection carries: whole frames in, whole columns out."""

from __future__ import annotations

import asyncio
from itertools import compress
from typing import TYPE_CHECKING

from envmesh.batch_codec import integers
from envmesh.blocks import Columns
from envmesh.frame_bounds import LARGE_VALUE_BYTES
from envmesh.slot import Slot
from envmesh.stream import HostConnection
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.vector_episodes import VectorEpisodes

__all__ = ["Block"]

STEP, RESET, CLOSE = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_CLOSE
OUTCOME, FAILURE = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_FAILURE
CHECKPOINT = pb.EVENT_KIND_CHECKPOINT


class Block:
    """Which handles of a connection are which episodes of the vector."""

    def __init__(self, vector: VectorEpisodes, connection: HostConnection):
        self.vector = vector
        self.connection = connection
        self.numbers: dict[int, int] = {}
        self.owns = self.numbers.__contains__
        connection.blocks.append(self)

    # ---- what the connection tells

    def on_columns(self, columns: Columns) -> None:
        """Take rows, all of which are this block's. What follows its episode's outcome is taken after that: a
        checkpoint is of an outcome, and mostly comes in the same frame."""
        handles, indices, payloads, rewards, flags, digests, infos, kinds = columns
        known = self.numbers
        numbers = [known[handle] for handle in handles]
        later: list[tuple[int, int, bytes, int]] = []
        if kinds is not None:
            came: set[int] = set()
            for row in zip(numbers, indices, payloads, kinds, strict=True):
                number, index, _, kind = row
                if kind == OUTCOME:
                    if self.vector.awaited(number) == index:
                        came.add(number)
                elif number in came:
                    later.append(row)
                else:
                    self._take_event(*row)
            outcomes = [kind == OUTCOME for kind in kinds]
            numbers = list(compress(numbers, outcomes))
            if not numbers:
                return
            indices, payloads = list(compress(indices, outcomes)), list(compress(payloads, outcomes))
            rewards, flags = list(compress(rewards, outcomes)), list(compress(flags, outcomes))
            digests, infos = list(compress(digests, outcomes)), list(compress(infos, outcomes))
        self.vector.on_outcomes(integers(numbers), indices, payloads, rewards, flags, digests, infos)
        for row in later:
            self._take_event(*row)

    def _take_event(self, number: int, index: int, payload: bytes, kind: int) -> None:
        if kind == FAILURE:
            self.vector.on_failure(number, index, payload)
        elif kind == CHECKPOINT:
            self.vector.on_checkpoint(number, payload)

    def on_outcome(
        self, handle: int, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """Take one outcome."""
        number = integers([self.numbers[handle]])
        self.vector.on_outcomes(number, [index], [payload], [reward], [flags], [digest], [info])

    # ---- what the vector says

    def place(self, number: int) -> int:
        """A new handle for an episode."""
        handle = self.connection.bind(self.vector.members[number])
        self.numbers[handle] = number
        return handle

    def enlist(self, number: int, handle: int) -> None:
        """An episode stands here under a handle that is bound already."""
        self.connection.sessions[handle] = self.vector.members[number]
        self.numbers[handle] = number

    def leave(self, handle: int) -> None:
        """The handle names nothing any more; whatever copy it names is closed."""
        if self.numbers.pop(handle, None) is not None and self.connection.lost is None:
            self.connection.send(handle, 0, CLOSE, b"")
        self.connection.unbind(handle)

    def step(self, handles: list[int], indices: list[int], payloads: list[bytes], large: bool) -> None:
        """Send steps."""
        if large:
            for handle, index, payload in zip(handles, indices, payloads, strict=True):
                self.connection.send(handle, index, STEP, payload)
            return
        self.connection.rows.extend(handles, indices, payloads)
        self.connection.wake()

    def begin(self, handles: list[int], requests: list[bytes], opens: list[bool]) -> None:
        """Send resets, each after the close of the copy before it, where there is one."""
        connection = self.connection
        most = max(map(len, requests), default=0)
        if most > connection.max_value_bytes:
            error = connection.oversize(most, "the reset with its options")
            for handle in handles:
                asyncio.get_running_loop().call_soon(self.vector.refused, self.numbers[handle], 0, error)
            return
        if most >= LARGE_VALUE_BYTES or connection.large.leads:
            send = connection.send
        else:
            send = connection.rows.add
        for handle, request, close in zip(handles, requests, opens, strict=True):
            if close:
                send(handle, 0, CLOSE, b"")
            send(handle, 0, RESET, request)
        connection.wake()

    def forget(self, handle: int) -> None:
        """The handle is somebody else's affair from now on."""
        self.numbers.pop(handle, None)

    def end(self) -> None:
        """No more frames for this block."""
        if self in self.connection.blocks:
            self.connection.blocks.remove(self)

    def takes(self, slot: Slot) -> bool:
        """Whether the slot is on this block's connection."""
        return slot.connection is self.connection
