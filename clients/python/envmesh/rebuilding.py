"""The rebuilding of one episode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envmesh.episode_session import ELSEWHERE, LOSS_OF_REASON, WORKER_DEATHS, answers
from envmesh.errors import EnvmeshError, EpisodeAborted, EpisodeTakenOver
from envmesh.outcome import columns_of_message
from envmesh.rebuild import Loss, acquit
from envmesh.relocation import Relocation
from envmesh.stream import failure_of
from envmesh.v1 import environment_pb2 as pb
from envmesh.wire import varint

if TYPE_CHECKING:
    from envmesh.lost_host import LostHost
    from envmesh.stream import HostConnection

__all__ = ["Rebuild"]

STEP, RESET, CLOSE = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_CLOSE
RESUME, DETACHED = pb.COMMAND_KIND_RESUME, pb.EVENT_KIND_DETACHED
FAILURE, RESUMED = pb.EVENT_KIND_FAILURE, pb.EVENT_KIND_RESUMED
CHECKPOINT_EVENT = pb.EVENT_KIND_CHECKPOINT

NOTHING_EXPECTED = -1
ATTEMPTS = 3
UNLUCKY_SECONDS = 2.0
"""A host whose workers are lost again and again, or that has no room, gets this episode no sooner."""

TELLING = frozenset({"REPLAY_DIVERGED", "VERSION_MISMATCH", "NOT_YOURS", "MALFORMED", "LIMIT_EXCEEDED"})
"""Reasons why a rebuilding fails that say so themselves; what else comes of a replay is a divergence."""


class Rebuild(Relocation):
    """One episode on its way to another copy: the session of its new handle until it stands there."""

    # ---- the new copy

    def begin(self) -> int:
        """Ask for the new copy, when its lane says so. Returns the size of what was sent, in bytes."""
        episode, slot = self.episode, self.slot
        assert slot is not None
        if not self._same_host_reset():
            episode.epoch += 1
        self.attempts += 1
        kind, payload = self._request()
        most = slot.connection.max_value_bytes
        if len(payload) > most:
            what = "reset" if kind == RESET else "journal"
            why = f"its {what} has {len(payload):,} bytes; its host takes {most:,}"
            self.fall_back(why, "MESSAGE_TOO_LARGE")
            return 0
        self.handle = slot.connection.bind(self)
        if kind == RESET and episode.suspicion is not None:
            self.stands = True
            self.recovery.suspects(slot.connection).add(self)
            return 0
        slot.connection.send(self.handle, 0, kind, payload)
        self._sent_bytes = len(payload)
        return len(payload)

    def _request(self) -> tuple[int, bytes]:
        """What makes the new copy: the kind of command, and its payload."""
        episode, slot = self.episode, self.slot
        assert slot is not None
        number = slot.binding.number
        if episode.index < 0:
            beginning = episode.beginning
            return RESET, beginning.request(episode.episode_id, episode.epoch, number, episode.traceparent)
        request = pb.ResumeRequest(
            episode_id=episode.episode_id, epoch=episode.epoch, lease_number=number,
            apart=episode.suspicion is not None, traceparent=episode.traceparent,
        ).SerializeToString()  # fmt: skip
        journal = episode.journal_bytes()
        return RESUME, request + _field(4, journal) if journal else request

    def _same_host_reset(self) -> bool:
        """Whether this is the same Reset again, for the same host: the host knows whether it was carried out."""
        return (
            self.cause is Loss.LINK_LOST and self.episode.index < 0 and self.slot is not None
            and self.lost_host is not None and self.slot.connection.host_id == self.lost_host.host_id
        )  # fmt: skip

    @property
    def acting(self) -> bool:
        """Whether the new copy does what may kill it: its suspected step, or its reset."""
        return self.alone or (self.episode.index < 0 and self.handle != 0 and not self.stands)

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
            self.at_boundary, self.held = False, None
            self.episode.on_outcome(*columns)
            if not self.over:
                self._past_boundary()
        else:
            self._arrives()
            self.episode.on_outcome(*columns)

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """An answer to Resume, or to what the episode had asked before."""
        if self.at_boundary:
            self._old_answered(kind, index, payload)
        elif kind == CHECKPOINT_EVENT:
            self.episode.on_event(kind, index, payload)
        elif self.alone and self.episode.index >= 0:
            self._suspect_answered(kind, index, payload)
        elif kind == RESUMED:
            self._resumed(pb.ResumeResponse.FromString(payload))
        elif kind == FAILURE:
            self._refused(failure_of(payload), payload)

    def _old_answered(self, kind: int, index: int, payload: bytes) -> None:
        if kind == FAILURE:
            error = failure_of(payload)
            if error.reason in WORKER_DEATHS or error.reason == "EPISODE_UNKNOWN":
                self.old = None
                self._past_boundary()
                return
        if not answers(kind, index, self.held):
            self.episode.on_event(kind, index, payload)
            return
        if kind == DETACHED:  # the copy that was let go is the one there
            self.go_back()
            self.episode.on_event(kind, index, payload)
            return
        self.at_boundary, self.held = False, None
        self.episode.on_event(kind, index, payload)
        if not self.over:
            self._past_boundary()

    def _resumed(self, response: pb.ResumeResponse) -> None:
        episode, last = self.episode, response.last
        ahead = last.index - episode.index
        wanted = episode.last_digest
        if ahead == 0 and wanted is not None and last.digest != wanted:
            ahead = -1
        if ahead not in (0, 1) or (ahead == 1 and not self.running):
            why = f"its host resumed it at step {last.index}, not {episode.index}"
            self.fall_back(why, "REPLAY_DIVERGED")
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

    def _refused(self, error: EnvmeshError, payload: bytes) -> None:
        recovery, reason = self.recovery, error.reason
        loss, again = LOSS_OF_REASON.get(reason), self.attempts < ATTEMPTS
        if reason in ELSEWHERE:
            self.trouble = str(error)
            self.leave_slot()
            if recovery.standing(self).rebuildable:
                self.seek()
            else:
                recovery.judge(self, Loss.HOST_GONE)
        elif loss is Loss.COPY_GONE:
            self.give_back()
            recovery.judge(self, loss)
        elif loss is Loss.PREEMPTED or (loss is Loss.WORKER_CRASHED and self.episode.index < 0):
            self.error = error
            self._fell_again(loss)
        elif loss is not None and again:
            self.withdraw()
            recovery.resume(self)
        elif loss is Loss.WORKER_LOST or (reason == "LIMIT_EXCEEDED" and again):
            # Others' doing, again and again, or no room: not there.
            assert self.slot is not None
            recovery.avoid(self.slot.connection.host_id, UNLUCKY_SECONDS)
            self.trouble = str(error)
            self.give_back(to_host=True)
            self.seek()
        elif isinstance(error, EpisodeTakenOver):
            self._end(error)
        elif self.episode.index < 0:  # the reset's own failure
            self._arrives()
            self.episode.on_event(FAILURE, 0, payload)
        else:
            self._diverged(error)

    def _diverged(self, error: EnvmeshError) -> None:
        """What the journal says could not be repeated: the old copy, where it lives, goes on."""
        episode, slot = self.episode, self.slot
        assert slot is not None
        build = slot.binding.spec.build if slot.binding.spec is not None else ""
        if error.reason in ("REPLAY_DIVERGED", "ENVIRONMENT_RAISED", "ENVIRONMENT_RETURNED"):
            self.recovery.diverged(episode.spec.key, build, episode.spec.build, error)
        if self.go_back():
            return
        if error.reason == "REPLAY_DIVERGED" and build != episode.spec.build:
            # The journal holds for the build that wrote it: the episode waits for a host of that.
            self.give_back()
            self.differed = True
            self.trouble = str(error)
            self.seek()
            return
        known = error.reason in TELLING or error.reason in WORKER_DEATHS
        self.fall(Exception.__str__(error), error.reason if known else "REPLAY_DIVERGED")

    def fall_back(self, message: str, reason: str) -> None:
        """It is not rebuilt there: the old copy, where it lives, goes on; else the episode falls."""
        if not self.go_back():
            self.fall(message, reason)

    # ---- suspects

    def step_alone(self) -> None:
        """Do the suspected step, or reset, with no other suspect's beside it."""
        self.alone = True
        if self.episode.index < 0:
            self._send(0, *self._request())
        elif self.held is not None and self._is_taken(self.held[2]):
            self._send(*self.held)

    def acquit(self, index: int) -> None:
        """It is known that one of the deaths with step ``index`` running was not its doing."""
        self.episode.suspicion = acquit(self.episode.suspicion, index)
        if self.episode.suspicion is None and self.stands and not self.over and not self.alone:
            assert self.slot is not None
            self.recovery.suspects(self.slot.connection).left(self)
            self.stands = False
            if self.episode.index < 0:
                self._send(0, *self._request())
            else:
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
        """The new copy is lost too, with the suspected step running alone, or with its reset."""
        self.fell_alone = self.alone
        self.withdraw()
        self.recovery.judge(self, loss)

    # ---- losses on the way, and the end

    def connection_lost(self, handle: int, connection: HostConnection, loss: Loss, lost: LostHost) -> None:
        """A connection is gone on which this was the session of a handle."""
        if self.old is connection and handle == self.old_handle:
            self.old = None
            if self.at_boundary:
                self._past_boundary()
        elif self.acting:
            self.fell_alone = self.alone
            self._lost_with(lost)  # from now on, what explains this loss counts
            self.recovery.judge(self, loss)
            if self not in lost.members:
                lost.abandon(self)
        else:
            self.slot_lost(lost)

    def slot_lost(self, lost: LostHost) -> None:
        """The host is gone on which it was to be rebuilt."""
        if self.recovery.standing(self).rebuildable:
            self.leave_slot()
            lost.abandon(self)
            self.seek()
        else:
            self._lost_with(lost)
            lost.take(self)

    def _lost_with(self, lost: LostHost) -> None:
        """Its copy was there: where that host is reached again, it may live."""
        if self.lost_host is not None and self.lost_host is not lost:
            self.lost_host.left(self, None)
        handle, slot = self.handle, self.leave_slot()
        assert slot is not None
        self.lost_host, self.old_slot, self.old_handle = lost, slot, handle

    def told(self, error: EnvmeshError) -> bool:
        """The host says that the copy is lost on which the episode waits. Returns whether it goes on."""
        loss = LOSS_OF_REASON.get(error.reason)
        if loss is None or self.over:
            return False
        self.error = error
        if self.at_boundary:
            self.old = None
            self._past_boundary()
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
        self._finish()
        self._close_old()
        if self.lost_host is not None:
            self.lost_host.left(self, None)
        slot = self.slot
        if slot is self.old_slot and not self.attempts and slot.connection.lost is None:
            # The host holds the slot for the copy that died.
            slot.connection.send(self.old_handle, 0, CLOSE, b"")
        self.give_back()

    def stay(self) -> None:
        """The drain was taken back before there was a slot elsewhere: the copy that lives goes on where it is."""
        if self.standing:
            self.go_back()
        else:
            self.drop()

    def drop(self) -> None:
        """The episode stays where it is."""
        if self.standing:
            self.abandon()
        else:
            self._finish()

    def _finish(self) -> None:
        self.over = True
        self.at_boundary = False
        self.episode.rebuild = None
        self.recovery.rebuilds.discard(self)
        self._stop_seeking()


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes((number << 3 | 2,)) + varint(len(data)) + data
