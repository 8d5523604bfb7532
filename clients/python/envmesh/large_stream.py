"""The second stream of a connection, for large values, and what keeps its order across the two."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from envmesh.lone_frames import spell_command
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.stream import HostConnection

__all__ = ["OF_SLOTS", "LargeStream"]

CLOSE = pb.COMMAND_KIND_CLOSE
OF_SLOTS = frozenset({pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_RESUME, CLOSE, pb.COMMAND_KIND_RETURN})
"""What takes slots and gives them back. A host that hears of these in another order finds no slot free, or opens a copy
that nobody names any more."""

NOTHING_EXPECTED = -1


class Mark:
    """A session for the Close of a handle that names nothing: its answer says that the host has carried out whatever
    came before it on its stream."""

    expected = NOTHING_EXPECTED

    def __init__(self, passed: Callable[[], None]):
        self._passed = passed

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """It has none."""

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """The answer."""
        self._passed()

    def fell(self, error: Any) -> None:
        """The connection is gone, and all order with it."""


class LargeStream:
    """Commands that wait for the large stream, each for a frame of its own.

    Each stream keeps its order, the two of them none. So from a large Reset or Resume on, whatever takes or gives slots
    goes by this one (it ``leads``), as soon as all that went before by the main stream is carried out; and by the main
    stream again when all of that is.
    """

    def __init__(self, connection: HostConnection):
        self.leads = False
        self._connection = connection
        self._rows: deque[tuple[int, int, int, bytes]] = deque()
        self._wake = asyncio.Event()
        self._waits = False
        self._last_mark = 0
        self._answer = 0

    def send(self, handle: int, index: int, kind: int, payload: bytes) -> None:
        """Queue one command."""
        if kind in OF_SLOTS:
            if not self.leads:
                self._connection.send(self._mark(self._main_has_passed), 0, CLOSE, b"")
                self.leads = self._waits = True
            self._last_mark = 0
            if kind == CLOSE:  # what has not gone yet need not go any more
                self._rows = deque(row for row in self._rows if row[0] != handle)
        self._rows.append((handle, index, kind, payload))
        self._wake.set()

    def challenged(self, challenge: int) -> None:
        """The host begins nothing until it has this answer; and what it holds of this stream, not before it hears from
        this stream again."""
        self._answer = challenge
        self._wake.set()

    async def write(self, call: Any) -> None:
        """Write whenever there is something, for ever. Raises: as ``call.write``."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._rows and not self._waits:
                await call.write(spell_command(*self._rows.popleft()))
            if self._answer:
                heartbeat, self._answer = pb.Heartbeat(answer=self._answer), 0
                await call.write(pb.StreamRequest(heartbeat=heartbeat).SerializeToString())
            if self.leads and not self._waits and not self._rows:
                await call.write(spell_command(self._mark_end(), 0, CLOSE, b""))

    def _mark(self, passed: Callable[[], None]) -> int:
        """A handle to close, where ``passed`` is called once the host has come to that."""
        connection = self._connection

        def answered() -> None:
            connection.unbind(handle)
            passed()

        handle = connection.bind(Mark(answered))
        return handle

    def _main_has_passed(self) -> None:
        self._waits = False
        self._wake.set()

    def _mark_end(self) -> int:
        def passed() -> None:
            if self._last_mark == mark:  # nothing has followed
                self.leads = False

        mark = self._last_mark = self._mark(passed)
        return mark
