"""An episode without a copy: what stands in for its connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from envmesh.episode_session import EpisodeSession
from envmesh.errors import EnvmeshError, InvalidRequest
from envmesh.rebuild import Loss
from envmesh.slot import Slot, StandInBinding
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.lost_host import LostHost
    from envmesh.recovery import Recovery
    from envmesh.stream import HostConnection

__all__ = ["StandIn"]

STEP, RESET, CLOSE = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_CLOSE

STAND_IN_HANDLE = 1
NO_BOUND = 1 << 62
"""What is known of a host that another client had."""


class StandIn:
    """One episode that has lost its copy, or is to leave it. What is sent to it is ``held``; ``old`` is where a living
    copy is left behind (a drain), None where there is none."""

    lost: Any = None
    draining = False
    _reading = True
    sessions: dict[int, Any] = {}  # noqa: RUF012 - nobody is ever bound to a stand-in

    def __init__(self, recovery: Recovery, episode: EpisodeSession, loss: Loss, lost: LostHost | None,
                 error: EnvmeshError | None = None):  # fmt: skip
        self.recovery = recovery
        self.episode = episode
        self.cause = loss
        self.lost_host = lost
        self.error = error
        self.started = recovery.mesh.loop_time()
        episode.take_stock()
        self.held = episode.out()
        self.old_slot, self.old_handle = episode.place
        self.old: HostConnection | None = None
        self.slot: Slot | None = None
        self.handle = 0
        self.alone = self.over = self.standing = self.at_boundary = self.stands = False
        self.fell_alone = False  # whether its step, being suspected, ran alone when the last copy was lost
        self.attempts = self.replayed = 0
        self.trouble = ""
        self.differed = False  # whether another build has not repeated the journal
        self.rows = self
        self.seeking = False
        self._waiter: asyncio.Future[Slot] | None = None
        self._sent_bytes = 0
        episode.rebuild = self  # type: ignore[assignment]  # only rebuilds are made
        recovery.rebuilds.add(self)  # type: ignore[arg-type]
        if loss is Loss.DRAIN:
            self.old = self.old_slot.connection
        elif loss in (Loss.WORKER_LOST, Loss.WORKER_CRASHED, Loss.COPY_GONE):
            self.slot = self.old_slot

    def __repr__(self) -> str:
        return f"<Rebuild {self.episode.episode_id.hex()[:8]} {self.cause} {self.waits_for()}>"

    @property
    def running(self) -> bool:
        """Whether a reset or step was out when the copy was lost."""
        return self.held is not None and self.held[1] in (STEP, RESET)

    @property
    def awaits_explanation(self) -> bool:
        """Whether its step is suspected of a loss that nobody has explained yet."""
        lost = self.lost_host
        return self.running and self.episode.suspicion is not None and lost is not None and lost.unknown

    @property
    def live_copy(self) -> bool:
        """Whether the episode plays on meanwhile, or its old copy does what it was asked last."""
        return not self.standing or self.at_boundary

    def waits_for(self) -> str:
        """What is missing, for people."""
        if self.slot is not None:
            return f"{self._phase()} {self.slot.connection.address}"
        if self._waiter is not None:
            pool = self.recovery.mesh.pool(self.episode.spec.key)
            return self.trouble or pool.queued or "asking for a slot"
        return self.trouble or "trying to reach its host again"

    def _phase(self) -> str:
        if self.at_boundary:
            return "ending its step before it moves to"
        act = "reset" if self.episode.index < 0 else "step"
        if self.alone:
            return f"running its suspected {act} on"
        if self.stands:
            return f"waiting to run its suspected {act} on"
        return "rebuilding on" if self.handle else "waiting for its turn on"

    def why(self, loss: Loss, reason: str) -> str:
        """What to say when the episode falls."""
        if reason == "POISON":
            act = f"step {self.episode.index + 1}" if self.episode.index >= 0 else "its reset"
            return f"{act} has killed or stopped what served it as often as is allowed"
        if self.error is not None:
            return Exception.__str__(self.error)
        host = self.old_slot.connection.address
        return f"host {host} was lost ({loss}), and {self.episode.spec.key} cannot be rebuilt"

    # ---- the stand-in for a connection

    @property
    def address(self) -> str:
        """Where the episode was."""
        return self.old_slot.connection.address

    @property
    def host_id(self) -> str:
        """The host it was on."""
        return self.old_slot.connection.host_id

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a gateway needs to find that host."""
        return self.old_slot.connection.metadata

    @property
    def max_value_bytes(self) -> int:
        """As many as that host took; what the next one takes is seen when there is one."""
        return getattr(self.old_slot.connection, "max_value_bytes", NO_BOUND)

    def oversize(self, size: int) -> InvalidRequest:
        """The error of an action that has more."""
        return self.old_slot.connection.oversize(size)

    def stand_in(self) -> None:
        """Take what the episode sends from now on."""
        if self.standing:
            return
        self.standing = True
        if self.old is None and self.lost_host is None:  # the host says that there is no copy
            self.old_slot.connection.unbind(self.old_handle)
        binding = StandInBinding(self, self.episode.spec)
        self.episode.stand_by(Slot(binding), STAND_IN_HANDLE)

    def add(self, handle: int, index: int, kind: int, payload: bytes) -> None:
        """Keep a command."""
        self.send(handle, index, kind, payload)

    def send(self, handle: int, index: int, kind: int, payload: bytes) -> None:
        """Keep a command; CLOSE ends the rebuilding."""
        if kind == CLOSE:
            self.abandon()
        elif kind != pb.COMMAND_KIND_ACKNOWLEDGE:
            self.held = (index, kind, payload)

    def put(self, handle: int, index: int, kind: int, payload: bytes) -> bool:
        """Keep a command."""
        self.send(handle, index, kind, payload)
        return False

    def wake(self) -> None:
        """There is nothing to write to."""

    def unbind(self, handle: int) -> None:
        """There is nothing bound."""

    # ---- its end

    def abandon(self) -> None:
        """The episode is not wanted any more."""
        raise NotImplementedError

    def fall(self, message: str, reason: str) -> None:
        """The episode cannot be saved."""
        raise NotImplementedError
