"""A slot, and the places that one can be in: a lease of ours, another client's former slot, or nowhere for now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from envmesh.delivery import Session
from envmesh.errors import EnvmeshError, MeshUnavailable
from envmesh.outcome import EnvironmentSpec
from envmesh.stream import HostConnection, failure_of
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.leases import LeasePool

__all__ = ["AttachedSlot", "FormerHost", "LeaseBinding", "Slot", "StandInBinding"]


class Slot:
    """A right to one episode on one host. ``over`` is the handle of an episode that has ended in it and was not closed
    yet, 0 where there is none: a reset under that handle closes it, and saves the frame a row."""

    __slots__ = ("binding", "over")

    def __init__(self, binding: LeaseBinding | AttachedSlot | StandInBinding):
        self.binding = binding
        self.over = 0

    @property
    def usable(self) -> bool:
        """Whether another episode can begin in it."""
        binding = self.binding
        if not isinstance(binding, LeaseBinding):
            return False
        return binding.connection.lost is None and not binding.connection.draining

    @property
    def acquired(self) -> str:
        """The traceparent of the request that brought it, where it has a trace of its own."""
        return self.binding.acquired if isinstance(self.binding, LeaseBinding) else ""

    @property
    def connection(self) -> HostConnection:
        """Where it is."""
        return self.binding.connection

    def bind(self, session: Session) -> int:
        """A handle for the next episode in the slot, whose reset must come next."""
        handle, self.over = self.over, 0
        if not handle:
            return self.connection.bind(session)
        self.connection.sessions[handle] = session
        return handle

    def close_over(self) -> None:
        """No episode follows at once: the one that is over is closed."""
        handle, self.over = self.over, 0
        if handle and self.connection.lost is None:
            self.connection.send(handle, 0, pb.COMMAND_KIND_CLOSE, b"")


class AttachedSlot:
    """The place of an episode that was taken over together with its slot: no lease of ours, nothing to reuse."""

    __slots__ = ("connection", "number", "spec")

    def __init__(self, connection: HostConnection, spec: EnvironmentSpec):
        self.connection = connection
        self.spec: EnvironmentSpec | None = spec
        self.number = 0


class FormerHost:
    """Where an episode was in another client's time: no connection, only a name for it."""

    draining = False

    def __init__(self, address: str, host_id: str, metadata: tuple[tuple[str, str], ...] = ()):
        self.address = address
        self.host_id = host_id
        self.metadata = metadata
        self.lost = MeshUnavailable(f"host {address} was another client's")

    def unbind(self, handle: int) -> None:
        """There is nothing bound."""


class StandInBinding:
    """The place of an episode that has no copy for now; ``connection`` keeps what it sends."""

    __slots__ = ("connection", "number", "spec")

    def __init__(self, stand_in: Any, spec: EnvironmentSpec):
        self.connection: HostConnection = stand_in
        self.spec: EnvironmentSpec | None = spec
        self.number = 0


class LeaseBinding:
    """A lease that was shown to its host: a session for the events that name it."""

    __slots__ = ("acquired", "bound", "connection", "count", "expected", "number", "pool", "spec", "token")

    def __init__(self, pool: LeasePool, connection: HostConnection, token: bytes):
        self.pool = pool
        self.connection = connection
        self.token = token
        self.acquired = ""
        self.expected = -1
        self.count = 0
        self.spec: EnvironmentSpec | None = None
        self.number = connection.bind(self)
        self.bound: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def show(self) -> int:
        """Show the lease. Returns how many slots it gives. Raises: EnvmeshError as the host refuses."""
        self.connection.send(self.number, 0, pb.COMMAND_KIND_BIND, self.token)
        try:
            return await self.bound
        except asyncio.CancelledError:
            self.give_back(0)  # whatever it gives, nobody waits for it any more
            raise

    def give_back(self, count: int) -> None:
        """``count`` idle slots of it go back to the host; 0: all."""
        if self.connection.lost is None:
            self.connection.send(self.number, count, pb.COMMAND_KIND_RETURN, b"")

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """A lease has no outcomes."""

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """BOUND, RETURNED, or a failure of either."""
        if self.bound.done():
            return
        if kind == pb.EVENT_KIND_BOUND:
            message = pb.LeaseBound.FromString(payload)
            self.spec = EnvironmentSpec(message.environment)
            self.count = message.count
            self.bound.set_result(message.count)
        elif kind == pb.EVENT_KIND_FAILURE:
            self.bound.set_exception(failure_of(payload))

    def fell(self, error: EnvmeshError) -> None:
        """The slots are gone."""
        if not self.bound.done():
            self.bound.set_exception(error)
