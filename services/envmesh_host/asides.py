"""Commands that are no step: grading, and saving, which a host also does by itself for episodes of class STATE."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.checkpoint_store import CheckpointStore
from envmesh_host.copy import EpisodeCopy, RunningStep, conflict
from envmesh_host.counting import note_failure
from envmesh_host.hosted import Waiter
from envmesh_host.isolation.runner import Job
from envmesh_host.player import outcome_of_row
from envmesh_host.refusals import overran
from envmesh_host.roster import Roster
from envmesh_host.served import Row
from envmesh_host.testimony import BEGAN, LIMIT
from envmesh_host.watchdog import StepOverrun

__all__ = ["Asides", "saves"]

log = logging.getLogger("envmesh.host")

REWARD, CHECKPOINT = pb.COMMAND_KIND_REWARD, pb.COMMAND_KIND_CHECKPOINT
NAMES: dict[int, str] = {REWARD: "the grading", CHECKPOINT: "the checkpoint"}
REPLIES: dict[int, int] = {REWARD: pb.EVENT_KIND_REWARD, CHECKPOINT: pb.EVENT_KIND_CHECKPOINT}


class Unasked:
    """Whom a checkpoint is told that nobody asked for: the client, if it succeeds."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Any):
        self._connection = connection

    def reply(self, handle: int, index: int, kind: int, result: Row | Refusal) -> None:
        """Tell the client."""
        if not isinstance(result, Refusal):
            self._connection.reply(handle, index, kind, result)
        elif not result.ends_episode:
            log.warning("an episode is not saved: %s", result)


class Released:
    """An outcome that is held back until its checkpoint is there, for steps that could not be replayed."""

    __slots__ = ("_connection", "_row", "_waiters")

    def __init__(self, connection: Any, waiters: list[Waiter], row: Row):
        self._connection = connection
        self._waiters = waiters
        self._row = row

    def reply(self, handle: int, index: int, kind: int, result: Row | Refusal) -> None:
        """Tell both: the outcome, then the checkpoint."""
        if isinstance(result, Refusal) and result.ends_episode:
            answer(self._waiters, pb.EVENT_KIND_FAILURE, result)
            return
        answer(self._waiters, pb.EVENT_KIND_OUTCOME, self._row)
        Unasked(self._connection).reply(handle, index, kind, result)


class Asides(Roster):
    """Grading and saving."""

    store: CheckpointStore | None = None

    def grade(self, copy: EpisodeCopy, again: bool, waiter: Waiter) -> None:
        """Grade an episode as it stands. Raises: Refusal UNSUPPORTED, STEP_INDEX while a step runs."""
        if not copy.environment.info.grades:
            raise Refusal(f"{copy.environment.key} has no reward()", reason="UNSUPPORTED")
        if copy.grade is not None and copy.grade[0] == copy.index and not again:
            self.traffic.note_command(REWARD)
            waiter[0].reply(waiter[1], waiter[2], pb.EVENT_KIND_REWARD, copy.grade[1])
            return
        self._aside(copy, REWARD, waiter)

    def checkpoint(self, copy: EpisodeCopy, waiter: Waiter) -> None:
        """Save an episode. Raises: Refusal UNSUPPORTED, STEP_INDEX while a step runs."""
        if not copy.environment.info.checkpoints:
            raise Refusal(f"{copy.environment.key} has no checkpoint()", reason="UNSUPPORTED")
        self._aside(copy, CHECKPOINT, waiter)

    def forget_checkpoints(self, copy: EpisodeCopy) -> None:
        """The episode is over: what was saved of it goes."""
        if copy.stored and self.store is not None:
            self.store.delete(copy.stored)
            copy.stored = ()

    def fetch_checkpoints(
        self, journal: pb.Journal, tenant: str, then: Callable[[Refusal | None], None]
    ) -> bool:
        """Put the contents of stored checkpoints into a journal that only refers to them; ``then`` hears when that is
        done, or why it cannot be. Returns whether there is anything to wait for.

        Raises:
            Refusal: MALFORMED, NOT_YOURS: no reference of ours, or another tenant's.
        """
        store = self.store
        stored = [
            entry.checkpoint
            for entry in journal.entries
            if entry.WhichOneof("entry") == "checkpoint" and entry.checkpoint.reference
        ]
        if not stored or store is None:
            return False
        if len(stored) > 1:
            raise Refusal("a journal has at most one stored checkpoint", reason="MALFORMED")
        sealed = stored[0]
        store.check(sealed.reference, tenant)

        def read(data: bytes | Refusal) -> None:
            if isinstance(data, Refusal):
                then(data)
                return
            sealed.content = data
            then(None)

        store.read(sealed.reference, read)
        return True

    # ---- saving unasked

    def due(self, copy: EpisodeCopy) -> bool:
        """Whether it is time to save an episode: at least every so many steps, with the first step after so many
        seconds, and at once where the host drains."""
        steps = copy.index - copy.saved_index
        if steps <= 0:
            return False
        environment, connection = copy.environment, copy.connection
        if self.draining or steps >= (connection.checkpoint_steps or environment.checkpoint_steps):
            return True
        seconds = connection.checkpoint_seconds or environment.checkpoint_seconds
        return bool(self.clock() - copy.saved_at >= seconds)

    def save_after_step(self, copy: EpisodeCopy, waiters: list[Waiter], row: Row) -> bool:
        """After a step of an episode of class STATE: save it, when it is time, and tell its client. Returns whether the
        step's outcome is held back until then."""
        connection = copy.connection
        if connection is None:
            return False
        if not copy.environment.info.deterministic and not self.just_saved(copy):
            self._save(copy, Released(connection, waiters, row))
            return True
        return False

    @staticmethod
    def just_saved(copy: EpisodeCopy) -> bool:
        """Whether the last outcome is in a checkpoint."""
        return bool(copy.saved_index == copy.index)

    def save_if_due(self, copy: EpisodeCopy) -> None:
        """Save an episode of class STATE when it is time, and tell its client."""
        if copy.connection is not None and copy.running is None and not copy.ended and self.due(copy):
            self._save(copy, Unasked(copy.connection))

    def save_all(self) -> None:
        """The host drains: whatever has gone on since its last checkpoint is saved, if it is at a step's end."""
        for copy in list(self.episodes.values()):
            if saves(copy):
                self.save_if_due(copy)

    def _save(self, copy: EpisodeCopy, sink: Unasked | Released) -> None:
        self._aside(copy, CHECKPOINT, (sink, copy.handle, copy.index))

    # ---- carrying out

    def queue_behind(self, copy: EpisodeCopy, kind: int, index: int, action: bytes, waiter: Waiter) -> bool:
        """A step that comes while the episode is graded or saved waits its turn. Returns whether it does.

        Raises:
            Refusal: STEP_CONFLICT when another action waits at this index.
        """
        running = copy.running
        if running is None or running.name not in NAMES.values() or index != copy.index + 1 or copy.ended:
            return False
        following = running.following
        if following is None:
            running.following = (kind, index, action, [waiter])
        elif following[2] != action:
            raise conflict(index)
        else:
            following[3].append(waiter)
        return True

    def _aside(self, copy: EpisodeCopy, kind: int, waiter: Waiter) -> None:
        """Run a command that is no step."""
        name = NAMES[kind]
        if copy.running is not None:
            if copy.running.name != name:
                raise Refusal(f"{copy.running} is running; wait for it", reason="STEP_INDEX")
            copy.running.waiters.append(waiter)
            return
        if copy.failed:
            raise copy.row
        environment, at = copy.environment, copy.index
        running = copy.running = RunningStep(at, b"", None, name)
        running.begun = started = time.perf_counter()
        running.waiters = [waiter]
        copy.close_to_steps()
        if kind == CHECKPOINT:
            copy.saved_index, copy.saved_at = at, self.clock()

        def done(job: Job, result: Row | Refusal) -> None:
            if copy.running is not running:
                return
            copy.running = None
            if copy.play is not None and not copy.ended:
                copy.open_to_steps()
            waiters, running.waiters = running.waiters, []
            self.traffic.note_seconds(kind, time.perf_counter() - started)
            self.traffic.note_command(kind, result.reason if isinstance(result, Refusal) else "")
            if isinstance(result, Refusal) and result.ends_episode:
                copy.row = result
                copy.close_to_steps()
                note_failure(copy, result)
            if kind == REWARD:
                environment.observed.reward_seconds.append(job.running_seconds)
            if isinstance(result, Refusal):
                answer(waiters, pb.EVENT_KIND_FAILURE, result)
            elif kind == REWARD:
                answer(waiters, pb.EVENT_KIND_REWARD, self._note_grade(copy, result))
            else:
                self._note_checkpoint(copy, at, result, lambda row: answer(waiters, REPLIES[kind], row))
            self._go_on(copy, running)

        job = Job(kind, copy.seat, at, b"", environment.limit(kind), done)
        if environment.served is None:
            running.job = job
            environment.runner.submit(job)
            return
        self.watch[LIMIT] = environment.limit(kind)
        self.watch[BEGAN] = started
        try:
            row: Row | Refusal = copy.seat.reward(at) if kind == REWARD else copy.seat.checkpoint()
        except Refusal as refusal:
            row = refusal
        except StepOverrun:
            row = overran(environment, kind)
        finally:
            self.watch[BEGAN] = self.watch[LIMIT] = 0.0
        job.running_seconds = time.perf_counter() - started
        done(job, row)

    def _go_on(self, copy: EpisodeCopy, running: RunningStep) -> None:
        """Take the step that has waited behind an aside."""
        if running.following is None:
            return
        kind, index, action, waiters = running.following
        running.following = None
        for waiter in waiters:
            try:
                self.step(copy, kind, index, action, waiter)
            except Refusal as refusal:
                answer([waiter], pb.EVENT_KIND_FAILURE, refusal)

    def step(self, copy: EpisodeCopy, kind: int, index: int, action: bytes, waiter: Waiter) -> None:
        """Carry out a reset or step (the engine does)."""
        raise NotImplementedError

    def _note_grade(self, copy: EpisodeCopy, row: Row) -> Row:
        copy.grade = (copy.index, row)
        observed, reply = copy.environment.observed, pb.RewardResponse.FromString(row[0])
        observed.grades[reply.valid] = observed.grades.get(reply.valid, 0) + 1
        for component in reply.components:
            observed.components.setdefault(component.name, []).append(component.value)
        return row

    def _note_checkpoint(
        self, copy: EpisodeCopy, at: int, row: Row, then: Callable[[Row | Refusal], None]
    ) -> None:
        """Seal a state, and put a large one into the store; ``then`` hears of it once it is safe."""
        content = pb.CheckpointContent(
            last=outcome_of_row(at, copy.row),
            environment=copy.environment.key,
            build=copy.environment.info.build,
        )
        content.state.ParseFromString(row[0])
        data = content.SerializeToString(deterministic=True)
        sealed = self.rights.seal(copy, data)
        self.traffic.checkpoints.append(len(data))
        store = self.store
        if store is None or len(data) <= store.inline_bytes:
            then(row_of(sealed))
            return

        def stored(reference: str | None) -> None:
            if reference is None:  # the store is away: the journal stays as long as it is
                copy.saved_index = min(copy.saved_index, at - 1)
                then(
                    Refusal(
                        "the checkpoint store cannot be written; the host's log says why", reason="INTERNAL"
                    )
                )
                return
            copy.stored = (*copy.stored, reference)
            if len(copy.stored) > KEPT_CHECKPOINTS:
                store.delete(copy.stored[:-KEPT_CHECKPOINTS])
                copy.stored = copy.stored[-KEPT_CHECKPOINTS:]
            sealed.reference = reference
            sealed.content = b""
            then(row_of(sealed))

        store.write(store.name(copy.tenant, copy.episode_id, at), data, stored)


KEPT_CHECKPOINTS = 2
"""A stored checkpoint goes when two newer ones are there: by then its client has taken up one of them."""


def saves(copy: EpisodeCopy) -> bool:
    """Whether a host saves this episode by itself."""
    return bool(copy.environment.info.recovery == pb.RECOVERY_CLASS_STATE)


def row_of(sealed: pb.SealedCheckpoint) -> Row:
    """A checkpoint as the columns of an event."""
    return (sealed.SerializeToString(), 0.0, 0, 0, b"")


def answer(waiters: list[Waiter], kind: int, result: Row | Refusal) -> None:
    """Tell those who wait."""
    for sink, handle, index in waiters:
        sink.reply(handle, index, pb.EVENT_KIND_FAILURE if isinstance(result, Refusal) else kind, result)
