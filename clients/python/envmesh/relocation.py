"""An episode on its way to another slot: its search for one, the old copy that may live meanwhile, its arrival."""

from __future__ import annotations

import asyncio

from envmesh.errors import EnvmeshError
from envmesh.outcome import Resume
from envmesh.slot import LeaseBinding, Slot
from envmesh.stand_in import StandIn
from envmesh.v1 import environment_pb2 as pb

__all__ = ["Relocation"]

CLOSE = pb.COMMAND_KIND_CLOSE

SEEK_AGAIN_SECONDS = 1.0


class Relocation(StandIn):
    """The slot that an episode without a copy has, or seeks. ``handle`` is what it is called there, 0 as long as
    nothing has been asked of that host. ``stands``: nothing but its suspected step is to be done there, in its turn;
    ``alone``: that turn has come."""

    # ---- a slot

    def seek(self) -> None:
        """Ask for a slot elsewhere."""
        if self.over or self.slot is not None or self._waiter is not None:
            return
        self.seeking = True
        pool = self.recovery.mesh.pool(self.episode.spec.key)
        waiter = pool.want(1, self._slot_came, self._no_slot, relocation=True)[0]
        if not waiter.done():
            self._waiter = waiter

    def _slot_came(self, slot: Slot) -> None:
        self._waiter = None
        if self.over or self.slot is not None:
            self.episode.pool.give(slot)
            return
        self.seeking = False
        spec = slot.binding.spec
        if spec is not None and self.recovery.refuses(spec, self.episode.spec.build):
            _return_to_host(slot)
            self.recovery.avoid(slot.connection.host_id)
            self.seeking = True
            self._no_slot(EnvmeshError(f"only build {spec.build[:12]} is served, which diverges"))
            return
        self.slot = slot
        # No copy lives, or its boundary was passed for a slot that was refused.
        if self.old is None or self.standing:
            self.recovery.resume(self)  # type: ignore[arg-type]
            return
        self.episode.take_stock()
        self.held = self.episode.out()
        self.old_slot, self.old_handle = self.episode.place
        self.stand_in()
        self.old.sessions[self.old_handle] = self  # type: ignore[assignment]
        self.at_boundary = self.held is not None
        if not self.at_boundary:
            self._past_boundary()

    def _no_slot(self, error: EnvmeshError) -> None:
        self._waiter = None
        self.trouble = str(error)
        if error.reason == "CREDENTIAL_INVALID" and not self.recovery.mesh.access.renewable:
            self.fall(self.trouble, error.reason)  # it was revoked, and no file will bring another
        elif self.seeking and not self.over:
            asyncio.get_running_loop().call_later(SEEK_AGAIN_SECONDS, self.seek)

    def return_to(self, slot: Slot) -> None:
        """The old host is there again, and the slot still ours."""
        self._stop_seeking()
        self.slot = slot
        self.recovery.resume(self)  # type: ignore[arg-type]

    def _stop_seeking(self) -> None:
        self.seeking = False
        if self._waiter is not None:
            self._waiter.cancel()
            self._waiter = None

    def withdraw(self) -> None:
        """Nothing is asked of the host of its slot any more: it has no handle there, and no turn."""
        self._leave_lane()
        if self.slot is not None:
            connection = self.slot.connection
            connection.unbind(self.handle)
            self.handle = 0
            if self.stands and connection.lost is None:
                self.recovery.suspects(connection).left(self)  # type: ignore[arg-type]
        self.stands = self.alone = False

    def leave_slot(self) -> Slot | None:
        """It has no slot any more. Returns the one it had."""
        self.withdraw()
        slot, self.slot = self.slot, None
        return slot

    def give_back(self, *, to_host: bool = False) -> None:
        """Leave no copy in its slot, and the slot to whoever wants one here, or (``to_host``) to everybody else: it
        would be the first that this client finds again."""
        handle, slot = self.handle, self.leave_slot()
        if slot is None:
            return
        if handle and slot.connection.lost is None:
            slot.connection.send(handle, 0, CLOSE, b"")
        if to_host:
            _return_to_host(slot)
        else:
            self.episode.pool.give(slot)

    def _leave_lane(self) -> None:
        if self.slot is not None:
            self.recovery.left_lane(self, self.slot.connection, self._sent_bytes)  # type: ignore[arg-type]
            self._sent_bytes = 0

    # ---- the old copy, where it lives

    def _past_boundary(self) -> None:
        """The old copy does no more: from now on the episode waits."""
        self.at_boundary = False
        self.started = self.recovery.mesh.loop_time()
        self.recovery.resume(self)  # type: ignore[arg-type]

    def go_back(self) -> bool:
        """The old copy, where it lives, goes on after all. Returns whether it does."""
        if self.old is None or self.old.lost is not None:
            return False
        self._stop_seeking()
        self.give_back()
        if self.at_boundary:  # what is out was sent to that copy
            self.at_boundary, self.held = False, None
        self.old, self.slot, self.handle = None, self.old_slot, self.old_handle
        self.let_go()
        return True

    def _close_old(self) -> None:
        if self.old is not None and self.old.lost is None:
            self.old.unbind(self.old_handle)
            request = pb.CloseRequest(episode_id=self.episode.episode_id, epoch=self.episode.epoch)
            self.old.send(self.old_handle, 0, CLOSE, request.SerializeToString())
        self.old = None

    # ---- arrival

    def let_go(self) -> None:
        """The episode goes on by itself, with what it has sent meanwhile."""
        held = self.held
        if held is None:
            self._arrives()
        elif self._is_taken(held[2]):
            self._arrives()
            self._send(*held)

    def _is_taken(self, payload: bytes) -> bool:
        """Whether the host takes as much as the episode has sent meanwhile. Such a value would end the connection, for
        all that is on it; so the episode falls instead."""
        assert self.slot is not None
        connection = self.slot.connection
        if len(payload) <= connection.max_value_bytes:
            return True
        error = connection.oversize(len(payload))
        self.fall(Exception.__str__(error), error.reason)
        return False

    def _send(self, index: int, kind: int, payload: bytes) -> None:
        assert self.slot is not None
        self.slot.connection.send(self.handle, index, kind, payload)

    def _arrives(self) -> None:
        """The new copy is the episode's from now on."""
        assert self.slot is not None
        slot, lost, episode = self.slot, self.lost_host, self.episode
        self._leave_lane()
        self._close_old()
        self.over = True
        self.held = None
        if lost is not None:
            lost.left(self, slot.connection)  # type: ignore[arg-type]
        now = self.recovery.mesh.loop_time()
        resume = Resume(
            index=episode.index, cause=str(self.cause), seconds=now - self.started, replayed=self.replayed,
            from_host=self.old_slot.connection.address, to_host=slot.connection.address,
        )  # fmt: skip
        episode.rebuild = None
        episode.arrive(slot, self.handle, resume)
        episode.enlist()
        if self.alone:
            self.alone = False
            self.recovery.suspects(slot.connection).left(self)  # type: ignore[arg-type]
        self.recovery.done(self)  # type: ignore[arg-type]
        if slot is not self.old_slot:
            self.recovery.arrived(episode, slot.connection)


def _return_to_host(slot: Slot) -> None:
    if isinstance(slot.binding, LeaseBinding):
        slot.binding.give_back(1)
