"""A connection in the simulated world: what is in it may be held, be stale, or be lost."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from envmesh.v1 import environment_pb2 as pb
from envmesh_host.connection import Connection
from envmesh_service.credentials import ANYBODY
from tests.simulation.host import CLIENT, WINDOW, SimulatedHost

__all__ = ["Link"]


class Link:
    """A connection as both sides see it. Each direction keeps its order; what is in it may be held, and be stale."""

    def __init__(self, host: SimulatedHost, hear: Callable[[Link, Any], None], lost: Callable[[Link], None]):
        self.host = host
        self.world = host.world
        hello = pb.Hello(client_id=CLIENT, connection_id=self.world.new_id())
        self.connection = Connection(host.engine, hello, ANYBODY, lease_idle=6.0, liveness_window=WINDOW)
        self.connection.wake = lambda: self.world.after(0.0, self.flush)
        self.handles = itertools.count(1)
        self.sessions: dict[int, Any] = {}
        self.open = True
        """As the client sees it."""
        self.heard = self.host_heard = self.world.now
        self._hear, self._lost = hear, lost
        self._held: deque[tuple[int, int, int, bytes]] = deque()
        self._on_its_way: deque[Any] = deque()
        self._arrivals = {"host": 0.0, "client": 0.0}
        host.links.append(self)

    def _arrival(self, side: str) -> float:
        at = self.world.now + self.world.dice.uniform(0.001, 0.15)
        at = max(at, self._arrivals[side], self.host.cut_until)
        self._arrivals[side] = at
        return at - self.world.now

    def send(self, kind: int, handle: int, index: int, payload: bytes) -> None:
        """A command, from the client."""
        self.host.after(self._arrival("host"), self._arrives, (kind, handle, index, payload))

    def heartbeat(self, answer: int) -> None:
        """The client is there, and has answered a challenge."""
        self.host.after(self._arrival("host"), self._arrives, answer)

    def _arrives(self, message: Any) -> None:
        if self not in self.host.links:
            return
        connection = self.connection
        if self.world.now - self.host_heard > WINDOW:
            connection.challenge += 1
        self.host_heard = self.world.now
        if isinstance(message, int):
            connection.answered = max(connection.answered, message)
        else:
            self._held.append(message)
        while self._held and not connection.fenced:
            kind, handle, index, payload = self._held.popleft()
            connection.command(kind, handle, index, payload, 0)
        self.flush()

    def flush(self) -> None:
        """What the host has to say goes on its way."""
        outbox = self.connection.outbox
        if len(outbox) and self.host.alive:
            columns = list(zip(outbox.handles, outbox.indices, outbox.kinds, outbox.payloads, outbox.rewards,
                               outbox.flags, outbox.digests, outbox.infos, strict=True))  # fmt: skip
            outbox._clear()
            self._tell(columns)

    def beat(self) -> None:
        """The host is there; while it is fenced, it says so."""
        self._tell(self.connection.challenge)
        if self.world.now - self.host_heard > 3 * WINDOW:
            self.broken()

    def _tell(self, said: Any) -> None:
        self._on_its_way.append(said)
        self.world.after(self._arrival("client"), self._told)

    def _told(self) -> None:
        if not self.open:
            return
        if self.host.cut_until > self.world.now:
            self.world.after(self.host.cut_until - self.world.now, self._told)
            return
        said = self._on_its_way.popleft()
        self.heard = self.world.now
        if isinstance(said, int):
            self.heartbeat(said)
            return
        for row in said:
            if self.open:
                self._hear(self, row)

    def broken(self) -> None:
        """Both sides learn that it is over, the host if it is there."""
        if self in self.host.links:
            self.host.links.remove(self)
            if self.host.alive:
                self.connection.lost()
        if self.open:
            self.open = False
            self._lost(self)
