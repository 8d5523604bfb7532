"""The rebuilding of one episode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envmesh.env import Recovery as RecoveryClass
from envmesh.episode_session import ELSEWHERE, LOSS_OF_REASON, WORKER_DEATHS
from envmesh.errors import EnvmeshError, EpisodeAborted, EpisodeTakenOver
from envmesh.outcome import Resume, columns_of_message
from envmesh.rebuild import Loss, acquit
from envmesh.slot import Slot
from envmesh.stand_in import StandIn
from envmesh.stream import failure_of
from envmesh.v1 import environment_pb2 as pb
from envmesh.wire import varint

if TYPE_CHECKING:
    from envmesh.lost_host import LostHost
    from envmesh.stream import HostConnection

__all__ = ["Rebuild"]

STEP, RESET, CLOSE = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_CLOSE
RESUME = pb.COMMAND_KIND_RESUME
FAILURE, RESUMED = pb.EVENT_KIND_FAILURE, pb.EVENT_KIND_RESUMED
CHECKPOINT_EVENT, CHECKPOINT = pb.EVENT_KIND_CHECKPOINT, pb.COMMAND_KIND_CHECKPOINT

NOTHING_EXPECTED = -1
ATTEMPTS = 3
UNLUCKY_SECONDS = 2.0
"""A host whose workers are lost again and again gets this episode no sooner."""

TELLING = frozenset({"REPLAY_DIVERGED", "VERSION_MISMATCH", "NOT_YOURS", "MALFORMED", "LIMIT_EXCEEDED"})
"""Reasons why a rebuilding fails that say so themselves; what else comes of a replay is a divergence."""


class Rebuild(StandIn):
    """One episode on its way to another copy: the session of its new handle until it stands there."""

    # ---- the new copy

    def begin(self) -> int:
        """Ask for the new copy, when its lane says so. Returns the size of what was sent, in bytes."""
        episode, slot = self.episode, self.slot
        assert slot is not None
        if not self._same_host_reset():
            episode.epoch += 1
        self.handle = slot.connection.bind(self)
        self.attempts += 1
        if episode.index < 0:
            kind, payload = (
                RESET,
                episode.beginning.request(
                    episode.episode_id, episode.epoch, slot.binding.number, episode.traceparent
                ),
            )
        else:
            request = pb.ResumeRequest(
                episode_id=episode.episode_id, epoch=episode.epoch, lease_number=slot.binding.number,
                apart=episode.suspicion is not None, traceparent=episode.traceparent,
            ).SerializeToString()  # fmt: skip
            journal = episode.journal_bytes()
            kind, payload = RESUME, request + _field(4, journal) if journal else request
        if len(payload) > slot.connection.max_value_bytes:
            self.fall(f"its journal has {len(payload):,} bytes; its host takes "
                      f"{slot.connection.max_value_bytes:,}", "MESSAGE_TOO_LARGE")  # fmt: skip
            return 0
        slot.connection.send(self.handle, 0, kind, payload)
        self._sent_bytes = len(payload)
        return len(payload)

    def _same_host_reset(self) -> bool:
        """Whether this is the same Reset again, for the same host: the host knows whether it was carried out."""
        return (
            self.cause is Loss.LINK_LOST and self.episode.index < 0 and self.slot is not None
            and self.lost_host is not None and self.slot.connection.host_id == self.lost_host.host_id
        )  # fmt: skip

    @property
    def expected(self) -> int:
        """The index whose outcome is awaited: the old copy's at the boundary, a reset's, or a suspect's step."""
        if self.at_boundary or self.alone:
            return self.episode.expected
        return 0 if self.episode.index < 0 and self.handle else NOTHING_EXPECTED

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """The old copy has done its last step, the new one its reset, or the suspect its step."""
        columns = (index, payload, reward, flags, digest, info)
        if self.at_boundary:
            self._boundary()
            self.episode.on_outcome(*columns)
            if not self.over:
                self.recovery.resume(self)
        else:
            self._arrives()
            self.episode.on_outcome(*columns)

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """An answer to Resume, or to what the episode had asked before."""
        if self.at_boundary:
            self._old_answered(kind, index, payload)
        elif kind == CHECKPOINT_EVENT:
            self.episode.on_event(kind, index, payload)
        elif self.alone:
            self._suspect_answered(kind, index, payload)
        elif kind == RESUMED:
            self._resumed(pb.ResumeResponse.FromString(payload))
        elif kind == FAILURE:
            self._refused(failure_of(payload), payload)

    def _boundary(self) -> None:
        self.at_boundary, self.held = False, None

    def _old_answered(self, kind: int, index: int, payload: bytes) -> None:
        assert self.held is not None
        if kind == CHECKPOINT_EVENT and self.held[1] != CHECKPOINT:
            self.episode.on_event(kind, index, payload)
            return
        if kind == FAILURE:
            error = failure_of(payload)
            if error.reason in WORKER_DEATHS or error.reason == "EPISODE_UNKNOWN":
                self.at_boundary, self.old = False, None
                self.recovery.resume(self)
                return
        self._boundary()
        self.episode.on_event(kind, index, payload)
        if not self.over:
            self.recovery.resume(self)

    def _resumed(self, response: pb.ResumeResponse) -> None:
        episode, last = self.episode, response.last
        ahead = last.index - episode.index
        wanted = episode.last_digest
        if ahead == 0 and wanted is not None and last.digest != wanted:
            ahead = -1
        if ahead not in (0, 1) or (ahead == 1 and not self.running):
            self.fall(f"its host resumed it at step {last.index}, not {episode.index}", "REPLAY_DIVERGED")
            return
        self.stands, self.replayed, self.fell_alone = True, response.replayed, False
        self._leave_lane()
        self._close_old()
        if self.held is not None and self.held[1] == RESUME:  # it was being resumed when its host was lost
            self._arrives()
            episode.on_event(RESUMED, 0, response.SerializeToString())
        elif ahead == 1:
            self._arrives()
            episode.on_outcome(last.index, *columns_of_message(last))
        elif self.running and episode.suspicion is not None:
            assert self.slot is not None
            self.recovery.suspects(self.slot.connection).add(self)
        else:
            self.let_go()

    def _send(self, command: tuple[int, int, bytes] | None) -> None:
        if command is not None and self.slot is not None:
            index, kind, payload = command
            self.slot.connection.send(self.handle, index, kind, payload)

    def let_go(self) -> None:
        """The episode goes on by itself, with what it has sent meanwhile."""
        held = self.held
        self._arrives()
        self._send(held)

    def _arrives(self) -> None:
        """The new copy is the episode's from now on."""
        assert self.slot is not None
        slot, lost, episode = self.slot, self.lost_host, self.episode
        self._leave_lane()
        self._close_old()
        self.over = True
        self.held = None
        if lost is not None:
            lost.left(self, slot.connection)
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
            self.recovery.suspects(slot.connection).cleared(self)
        self.recovery.done(self)
        if slot is not self.old_slot:
            self.recovery.arrived(episode, slot.connection)

    def _close_old(self) -> None:
        if self.old is not None and self.old.lost is None:
            self.old.unbind(self.old_handle)
            request = pb.CloseRequest(episode_id=self.episode.episode_id, epoch=self.episode.epoch)
            self.old.send(self.old_handle, 0, CLOSE, request.SerializeToString())
        self.old = None

    def _refused(self, error: EnvmeshError, payload: bytes) -> None:
        self._leave_lane()
        recovery, slot = self.recovery, self.slot
        assert slot is not None
        slot.connection.unbind(self.handle)
        if error.reason in ELSEWHERE:
            self.slot = None
            self.trouble = str(error)
            if self.episode.spec.recovery is not RecoveryClass.NONE:
                self.seek()
            else:
                recovery.judge(self, Loss.HOST_GONE)
        elif error.reason == "EPISODE_UNKNOWN":
            self._give_back(slot)
            recovery.judge(self, Loss.COPY_GONE)
        elif error.reason in WORKER_DEATHS and self.attempts < ATTEMPTS:
            recovery.resume(self)
        elif error.reason == "WORKER_LOST":  # others' doing, again and again: elsewhere
            self._give_back(slot)
            recovery.avoid(slot.connection.host_id, UNLUCKY_SECONDS)
            self.trouble = str(error)
            self.seek()
        elif error.reason == "LIMIT_EXCEEDED" and self.attempts < ATTEMPTS:
            self._give_back(slot)
            self.trouble = str(error)
            self.seek()
        elif isinstance(error, EpisodeTakenOver):
            self._end(error)
        elif self.episode.index < 0:  # the reset's own failure
            slot.connection.sessions[self.handle] = self
            self._arrives()
            self.episode.on_event(FAILURE, 0, payload)
        else:
            self._diverged(error, slot)

    def _diverged(self, error: EnvmeshError, slot: Slot) -> None:
        """What the journal says could not be repeated: the old copy, where it lives, goes on."""
        episode = self.episode
        build = slot.binding.spec.build if slot.binding.spec is not None else ""
        if error.reason in ("REPLAY_DIVERGED", "ENVIRONMENT_RAISED", "ENVIRONMENT_RETURNED"):
            self.recovery.diverged(episode.spec.key, build, episode.spec.build, error)
        if self.old is not None and self.old.lost is None:
            self._give_back(slot)
            self._go_back()
            return
        if error.reason == "REPLAY_DIVERGED" and build != episode.spec.build:
            # The journal holds for the build that wrote it: the episode waits for a host of that.
            self._give_back(slot)
            self.differed = True
            self.trouble = str(error)
            self.seek()
            return
        known = error.reason in TELLING or error.reason in WORKER_DEATHS
        self.fall(Exception.__str__(error), error.reason if known else "REPLAY_DIVERGED")

    def _go_back(self) -> None:
        """The old copy, which waits past its boundary, goes on after all."""
        self.old, self.slot, self.handle = None, self.old_slot, self.old_handle
        self.let_go()

    def _give_back(self, slot: Slot) -> None:
        if slot.connection.lost is None and self.handle:
            slot.connection.unbind(self.handle)
            slot.connection.send(self.handle, 0, CLOSE, b"")
        self.slot = None
        self.episode.pool.give(slot)

    def _leave_lane(self) -> None:
        if self.slot is not None:
            self.recovery.left_lane(self, self.slot.connection, self._sent_bytes)
            self._sent_bytes = 0

    # ---- suspects

    def step_alone(self) -> None:
        """Do the suspected step, with no other suspect's beside it."""
        self.alone = True
        self._send(self.held)

    def acquit(self, index: int) -> None:
        """It is known that one of the deaths with step ``index`` running was not its doing."""
        self.episode.suspicion = acquit(self.episode.suspicion, index)
        if (
            self.episode.suspicion is None
            and self.stands
            and not self.over
            and not self.alone
            and self.slot is not None
        ):
            self.recovery.suspects(self.slot.connection).acquitted(self)
            self.let_go()

    def _suspect_answered(self, kind: int, index: int, payload: bytes) -> None:
        if kind == FAILURE:
            error = failure_of(payload)
            if error.reason in WORKER_DEATHS:
                self.error = error
                self._fell_again(LOSS_OF_REASON[error.reason])
                return
        self._arrives()
        self.episode.on_event(kind, index, payload)

    def _fell_again(self, loss: Loss) -> None:
        """The new copy is lost too, with the suspected step running alone."""
        assert self.slot is not None
        connection = self.slot.connection
        connection.unbind(self.handle)
        suspects = self.recovery.suspects(connection)
        self.stands = False
        if connection.lost is not None:
            self.slot = None
        self.fell_alone = self.alone
        self.alone = False
        self.recovery.judge(self, loss)
        suspects.cleared(self)

    # ---- losses on the way, and the end

    def connection_lost(self, handle: int, connection: HostConnection, loss: Loss, lost: LostHost) -> None:
        """A connection is gone on which this was the session of a handle."""
        if self.old is connection and handle == self.old_handle:
            self.old = None
            if self.at_boundary:
                self.at_boundary = False
                self.recovery.resume(self)
            return
        self._leave_lane()
        lost.abandoned[self.episode.episode_id] = self.episode.epoch
        if self.alone:
            if self.lost_host is not None and self.lost_host is not lost:
                self.lost_host.left(self, None)
            self.lost_host = lost  # from now on, what explains this loss counts
            self._fell_again(loss)
            return
        self.slot_lost(lost)

    def slot_lost(self, lost: LostHost) -> None:
        """The host is gone on which it was to be rebuilt."""
        self.slot, self.stands = None, False
        if self.episode.spec.recovery is RecoveryClass.NONE:
            self.lost_host = lost
            lost.take(self)
        else:
            self.seek()

    def told(self, error: EnvmeshError) -> bool:
        """The host says that the copy is lost on which the episode waits. Returns whether it goes on."""
        loss = LOSS_OF_REASON.get(error.reason)
        if loss is None or self.over:
            return False
        self.error = error
        if self.at_boundary:
            self.at_boundary, self.old = False, None
            self.recovery.resume(self)
        elif self.stands:
            self._fell_again(loss)
        return True

    def fell(self, error: EpisodeAborted) -> None:
        """A newer owner has the episode, or its time is over."""
        if not self.over:
            self._end(error)

    def fall(self, message: str, reason: str) -> None:
        """The episode cannot be saved."""
        if not self.over:
            self._end(EpisodeAborted(message, reason=reason))

    def _end(self, error: EpisodeAborted) -> None:
        self.recovery.statistics.count_fall(error.reason)
        self.stand_in()  # so that whatever the episode does last goes nowhere
        self.abandon()
        self.episode.fell(error)

    def abandon(self) -> None:
        """The episode is not wanted any more: leave no copy and no slot behind."""
        if self.over:
            return
        self.over = True
        self.at_boundary = False
        self.episode.rebuild = None
        self.recovery.rebuilds.discard(self)
        self._stop_seeking()
        self._leave_lane()
        self._close_old()
        if self.lost_host is not None:
            self.lost_host.left(self, None)
        slot, self.slot = self.slot, None
        if slot is not None:
            if self.stands:
                self.recovery.suspects(slot.connection).acquitted(self)
            if self.alone:
                self.alone = False
                self.recovery.suspects(slot.connection).cleared(self)
            if slot is self.old_slot and not self.handle and slot.connection.lost is None:
                slot.connection.send(self.old_handle, 0, CLOSE, b"")
            if self.handle and slot.connection.lost is None:
                slot.connection.unbind(self.handle)
                slot.connection.send(self.handle, 0, CLOSE, b"")
            self.episode.pool.give(slot)

    def stay(self) -> None:
        """The drain was taken back before there was a slot elsewhere: the copy that lives goes on where it is."""
        if self.live_copy:
            self.drop()
        else:
            self._stop_seeking()
            self._go_back()

    def drop(self) -> None:
        """The episode stays where it is."""
        if self.standing:
            self.abandon()
            return
        self.over = True
        self.episode.rebuild = None
        self.recovery.rebuilds.discard(self)
        self._stop_seeking()
        if self.slot is not None:
            slot, self.slot = self.slot, None
            self.episode.pool.give(slot)


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes((number << 3 | 2,)) + varint(len(data)) + data
