"""A host that a client lost: trying to reach it again, and what is done there then.

Copies that may live are taken up again; those that were given up are closed, and leases given back, before anything
else is said to the host.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

import grpc
from google.protobuf import duration_pb2

from envmesh.errors import EnvmeshError
from envmesh.rebuild import Loss
from envmesh.slot import AttachedSlot, LeaseBinding, Slot
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import placement_pb2

if TYPE_CHECKING:
    from envmesh.rebuilding import Rebuild
    from envmesh.recovery import Recovery
    from envmesh.stream import HostConnection

__all__ = ["LostHost", "pause_again"]

log = logging.getLogger("envmesh.client")

REACH_SECONDS = 2.0
LEAST_PAUSE, MOST_PAUSE = 0.05, 1.0
FORGIVEN_SECONDS = 10.0


def pause_again(since: float, pause: float) -> float:
    """How long to wait before a host is tried again that was lost ``since`` seconds after it was lost before, and tried
    after ``pause`` then: not at all but where it is lost each time that it is reached; then longer and longer."""
    return _longer(pause) if since < FORGIVEN_SECONDS else 0.0


def _longer(pause: float) -> float:
    return min(MOST_PAUSE, max(LEAST_PAUSE, 2 * pause))


class LostHost:
    """One host that is out of reach.

    ``members`` are the episodes that were there and are not settled yet, ``abandoned`` the copies there (episode id to
    epoch) that nobody wants any more. ``suspects`` are those whose step, by its index, is held to have done it,
    ``accused`` would be poison if one did; ``explained`` says whether it is known that no step did, ``unknown`` whether
    nobody has said yet."""

    def __init__(self, recovery: Recovery, connection: HostConnection):
        self.address = connection.address
        self.host_id = connection.host_id
        self.silent = connection.silent
        self.members: dict[Rebuild, None] = {}
        self.suspects: dict[Rebuild, int] = {}
        self.accused: dict[Rebuild, Loss] = {}
        self.explained = False
        self.unknown = True
        self.abandoned: dict[bytes, int] = {}
        self._recovery = recovery
        self._old = connection
        self._bindings = recovery.mesh.bindings_on(connection)
        self._window = connection.reattach_window

    # ---- its episodes

    def take(self, rebuild: Rebuild) -> None:
        """An episode that may have a copy there."""
        self.members[rebuild] = None

    def left(self, rebuild: Rebuild, where: HostConnection | None) -> None:
        """An episode stands at ``where``, or nowhere: its copy here is not wanted."""
        self.members.pop(rebuild, None)
        if where is None or where.host_id != self.host_id:
            self.abandon(rebuild)

    def abandon(self, rebuild: Rebuild) -> None:
        """A copy that it may have here is not wanted any more."""
        self.abandoned[rebuild.episode.episode_id] = rebuild.episode.epoch

    def inherit(self, before: LostHost) -> None:
        """The host was lost again before everything was settled there: what is left to do is this one's."""
        for rebuild in before.members:
            rebuild.lost_host = self
        self.members.update(before.members)
        self.abandoned.update(before.abandoned)
        self._bindings = [*before._bindings, *self._bindings]
        before.members.clear()
        before.abandoned.clear()
        before._bindings = []

    def _gone(self, *, hopeless: bool) -> None:
        """It is not reached: what can be rebuilt is, elsewhere; the rest waits, or falls when ``hopeless``."""
        self._recovery.avoid(self.host_id)
        for rebuild in list(self.members):
            wanting = rebuild.slot is None and not rebuild.seeking and not rebuild.over
            if wanting and (hopeless or self._recovery.standing(rebuild).rebuildable):
                self._recovery.judge(rebuild, Loss.HOST_GONE)

    # ---- reaching it

    async def run(self) -> None:
        """Try to reach the host until it is reached, or no copy can be there any more."""
        mesh, recovery = self._recovery.mesh, self._recovery
        explaining = mesh.spawn(self._explain(), name=f"envmesh-explain-{self.address}")
        if self.silent:
            self._gone(hopeless=False)
        try:
            connection = await self._reach()
            if connection is None:
                return
            if connection.host_id != self.host_id:
                log.info("another process answers at %s now", self.address)
                self._gone(hopeless=True)
                return
            recovery.reached(self.host_id)
            await self._take_up(connection)
        finally:
            recovery.forget(self)
            if not self.suspects and not self.accused:
                explaining.cancel()

    async def _reach(self) -> HostConnection | None:
        """The host's new connection; None where no copy can be there any more."""
        mesh = self._recovery.mesh
        started, pause = mesh.loop_time(), self._recovery.pause_before_return(self.host_id)
        patience = mesh.settings.reattach_timeout
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            try:
                return await mesh.reach(self.address, self.host_id, self._old.metadata, REACH_SECONDS)
            except EnvmeshError as error:
                log.debug("host %s is not reached: %s", self.address, error)
            waited = mesh.loop_time() - started
            self._gone(hopeless=waited >= patience)
            if waited > max(patience, self._window + MOST_PAUSE):
                return None
            pause = _longer(pause)

    async def _explain(self) -> None:
        """Ask the broker why it was lost, as far as it knows within a moment."""
        mesh = self._recovery.mesh
        request = placement_pb2.ExplainLossRequest(
            host_id=self.host_id, timeout=duration_pb2.Duration(seconds=2)
        )
        try:
            reply = await mesh.placement.ExplainLoss(request, metadata=mesh.metadata, timeout=4.0)
        except grpc.aio.AioRpcError as error:
            log.debug("nobody explains why host %s was lost: %s", self.host_id, error.code())
            cause = placement_pb2.LOSS_CAUSE_UNSPECIFIED
        else:
            cause = reply.cause
        self._recovery.explained(self, cause)

    async def _take_up(self, connection: HostConnection) -> None:
        """The host is there: close what is not wanted, show the leases again, take up the copies."""
        for rebuild in list(self.members):
            if rebuild.over:
                self.left(rebuild, None)
        for episode_id, epoch in self.abandoned.items():
            request = pb.CloseRequest(episode_id=episode_id, epoch=epoch)
            connection.send(connection.fresh_handle(), 0, pb.COMMAND_KIND_CLOSE, request.SerializeToString())
        shown = self._bindings
        bindings = await asyncio.gather(*(self._show(connection, old) for old in shown))
        if connection.lost is not None:
            # Who lost it has inherited everything, unless it had drained, and is gone.
            self._gone(hopeless=True)
            return
        found = dict(zip(shown, bindings, strict=True))
        taken: dict[LeaseBinding, int] = {}
        for rebuild in list(self.members):
            if rebuild.over or rebuild.slot is not None:
                continue
            old = rebuild.old_slot.binding
            new = found.get(old)  # type: ignore[arg-type]
            if new is not None:
                taken[new] = taken.get(new, 0) + 1
                rebuild.return_to(Slot(new))
            elif isinstance(old, AttachedSlot):
                rebuild.return_to(Slot(AttachedSlot(connection, rebuild.episode.spec)))
            else:
                self._recovery.judge(rebuild, Loss.COPY_GONE)
        for binding in bindings:
            if binding is None:
                continue
            idle = binding.count - taken.get(binding, 0)
            if binding not in taken:
                connection.send(binding.number, 0, pb.COMMAND_KIND_RETURN, b"")
            else:
                binding.pool.bound(binding, idle)

    async def _show(self, connection: HostConnection, old: LeaseBinding) -> LeaseBinding | None:
        new = LeaseBinding(old.pool, connection, old.token)
        try:
            async with asyncio.timeout(self._recovery.mesh.settings.connect_timeout):
                await new.show()
        except (EnvmeshError, TimeoutError) as error:
            log.info("host %s knows a lease of before no more: %s", self.address, error)
            return None
        return new
