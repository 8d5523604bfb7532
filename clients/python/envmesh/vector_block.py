"""The episodes of a vector that one connection carries: whole frames in, whole columns out."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING

from envmesh.batch_codec import integers
from envmesh.blocks import Columns
from envmesh.errors import EnvmeshError
from envmesh.leases import Slot
from envmesh.stream import HostConnection
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.vector_episodes import VectorEpisodes

__all__ = ["Block"]

STEP, RESET, CLOSE = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_CLOSE
OUTCOME, FAILURE = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_FAILURE
LARGE_VALUE_BYTES = 256 * 1024


class Member:
    """One episode's session, for what is told to it alone: the loss of its connection or copy."""

    __slots__ = ("_block", "_number")

    def __init__(self, block: Block, number: int):
        self._block = block
        self._number = number

    @property
    def expected(self) -> int:
        """The index whose outcome is awaited."""
        return self._block.vector.awaited(self._number)

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """An outcome that came in a frame with others'."""
        vector = self._block.vector
        vector.on_outcomes(integers([self._number]), [index], [payload], [reward], [flags], [digest], [info])

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """A failure."""
        if kind == FAILURE:
            self._block.vector.on_failure(self._number, index, payload)

    def on_lost(self, error: EnvmeshError) -> None:
        """The connection is gone, or this copy is."""
        self._block.vector.on_lost(self._number, error)


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
        """Take rows, all of which are this block's."""
        handles, indices, payloads, rewards, flags, digests, infos, kinds = columns
        known = self.numbers
        numbers = [known[handle] for handle in handles]
        if kinds is not None:
            for number, index, payload, kind in zip(numbers, indices, payloads, kinds, strict=True):
                if kind == FAILURE:
                    self.vector.on_failure(number, index, payload)
            outcomes = [kind == OUTCOME for kind in kinds]
            numbers = list(compress(numbers, outcomes))
            if not numbers:
                return
            indices, payloads = list(compress(indices, outcomes)), list(compress(payloads, outcomes))
            rewards, flags = list(compress(rewards, outcomes)), list(compress(flags, outcomes))
            digests, infos = list(compress(digests, outcomes)), list(compress(infos, outcomes))
        self.vector.on_outcomes(integers(numbers), indices, payloads, rewards, flags, digests, infos)

    # ---- what the vector says

    def place(self, number: int) -> int:
        """A new handle for an episode."""
        handle = self.connection.bind(Member(self, number))  # type: ignore[arg-type]  # nobody sets `expected`
        self.numbers[handle] = number
        return handle

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
        if requests and len(requests[0]) >= LARGE_VALUE_BYTES:
            send = connection.send
        else:
            send = connection.rows.add
        for handle, request, close in zip(handles, requests, opens, strict=True):
            if close:
                send(handle, 0, CLOSE, b"")
            send(handle, 0, RESET, request)
        connection.wake()

    def end(self) -> None:
        """No more frames for this block."""
        if self in self.connection.blocks:
            self.connection.blocks.remove(self)

    def takes(self, slot: Slot) -> bool:
        """Whether the slot is on this block's connection."""
        return slot.connection is self.connection
