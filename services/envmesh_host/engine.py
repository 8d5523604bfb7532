"""What a host does with a command: the one code behind the unary calls and the Stream.

A command comes with a waiter ``(sink, handle, index)`` and ends in exactly one ``sink.reply(handle, index, kind,
result)``, now or later, whose result is a ``Row`` or a ``Refusal``. Nothing here waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.asides import REPLIES, answer, join
from envmesh_host.contracts import Sink
from envmesh_host.copy import Dropped, EpisodeCopy, RunningStep, Verdict, judge_step
from envmesh_host.counting import note_ended, note_failure, note_fallen
from envmesh_host.hosted import Waiter
from envmesh_host.isolation.runner import Job
from envmesh_host.journals import Survey, survey
from envmesh_host.overrun import StepOverrun
from envmesh_host.player import outcome_of_row, row_of_outcome
from envmesh_host.refusals import overran, stale_copy, too_large, unknown_episode
from envmesh_host.replays import Replays
from envmesh_host.saving import Saving, saves_each_step
from envmesh_host.served import ENDED, Row, size_of
from envmesh_host.slots import Holding
from envmesh_host.testimony import BEGAN, LIMIT
from envmesh_host.tool_calls import note_tool_calls

__all__ = ["Engine"]

SMALL_VALUE_BYTES = 64 * 1024

STEP, RESET, CLOSE = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_CLOSE
OUTCOME = pb.EVENT_KIND_OUTCOME
REPLY_KINDS: dict[int, int] = {
    pb.COMMAND_KIND_STEP: pb.EVENT_KIND_OUTCOME,
    pb.COMMAND_KIND_RESET: pb.EVENT_KIND_OUTCOME,
    pb.COMMAND_KIND_RESUME: pb.EVENT_KIND_RESUMED,
    **REPLIES,
    pb.COMMAND_KIND_CLOSE: pb.EVENT_KIND_CLOSED,
}


class Engine(Saving):
    """The commands of a host's episodes."""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._replays = Replays(self.watch)

    # ---- commands

    def reset(
        self,
        request: pb.ResetRequest,
        payload: bytes,
        holding: Callable[[], Holding],
        sink: Sink,
        waiter: Waiter,
        bind: Callable[[EpisodeCopy], None] | None = None,
    ) -> EpisodeCopy:
        """Begin an episode, or answer its Reset from what is known; ``bind`` hears which copy it is before that.
        ``holding`` is called for the slot of a new copy.

        Raises:
            Refusal: ARGUMENT_INVALID, EPOCH_STALE, DRAINING, LEASE_INVALID, NO_CAPACITY, and those of ``judge_step``.
        """
        if len(request.episode_id) != 16:
            raise Refusal("episode_id must be 16 random bytes", reason="ARGUMENT_INVALID")
        copy = self._older_copy(request.episode_id, request.epoch, sink)
        if copy is not None:
            if bind is not None:
                bind(copy)
            self.step(copy, RESET, 0, self._known_as(copy, request, payload), waiter)
            return copy
        if self.draining:
            raise Refusal("this host drains; take a slot elsewhere", reason="DRAINING")
        copy = self._new_copy(request, holding(), sink)
        if bind is not None:
            bind(copy)
        if copy.environment.served is None:
            self._run(copy, RESET, running_step(0, payload, waiter), payload)
        else:
            self._begin_inline(copy, request, payload, waiter)
        return copy

    def _begin_inline(
        self, copy: EpisodeCopy, request: pb.ResetRequest, payload: bytes, waiter: Waiter
    ) -> None:
        """The reset of a new copy, where nothing can be in its way: ``_run`` and ``settled`` in one."""
        environment = copy.environment
        watch = self.watch
        watch[LIMIT] = environment.reset_limit
        watch[BEGAN] = started = time.perf_counter()
        result: Row | Refusal
        try:
            player = copy.seat = environment.player()
            result = player.reset(request)
            open_to_frames(copy)
        except Refusal as refusal:
            result = refusal
        except StepOverrun:
            result = overran(environment, RESET)
        finally:
            watch[BEGAN] = watch[LIMIT] = 0.0
        seconds = time.perf_counter() - started
        unusual = (
            isinstance(result, Refusal)
            or result[2] & ENDED
            or size_of(result) >= min(SMALL_VALUE_BYTES, self._bound(copy))
        )
        if unusual or copy.trace is not None or saves_each_step(environment):
            running = copy.running = running_step(0, payload, waiter)
            running.begun = started
            self.settled(copy, running, RESET, result, seconds)
            return
        environment.observed.reset_seconds.append(seconds)
        environment.observed.reset_totals.append(seconds)
        self.traffic.note_command(RESET)
        copy.settle(0, payload, result)
        waiter[0].reply(waiter[1], waiter[2], OUTCOME, result)

    def resume(
        self, request: pb.ResumeRequest, holding: Callable[[str], Holding], sink: Sink, waiter: Waiter
    ) -> EpisodeCopy:
        """Rebuild an episode, or take over its live copy. ``holding`` is called with the journal's environment for the
        slot of a new copy.

        Raises:
            Refusal: ARGUMENT_INVALID, EPOCH_STALE, NOT_YOURS, MALFORMED, EPISODE_UNKNOWN, DRAINING, LEASE_INVALID,
                NO_CAPACITY.
        """
        if len(request.episode_id) != 16:
            raise Refusal("episode_id must be 16 random bytes", reason="ARGUMENT_INVALID")
        journal = request.journal
        seen = survey(journal) if journal.entries else None
        payload = request.SerializeToString(deterministic=True)
        proven = seen is not None or bool(request.attach_token)
        copy = self._own_copy(request.episode_id, request.epoch, sink, proven=proven)
        if copy is not None:
            running = copy.running
            if running is not None and running.request == payload:
                join(running.waiters, waiter)
                return copy
            if self._take_over(copy, request, seen, sink):
                last = outcome_of_row(copy.index, copy.row)
                response = pb.ResumeResponse(last=last, build=copy.environment.info.build)
                row = (response.SerializeToString(), *copy.row[1:4], b"")
                self.traffic.note_command(pb.COMMAND_KIND_RESUME)
                self.traffic.note_resume("takeover", "attach" if request.attach_token else "reconnect")
                sink.reply(waiter[1], waiter[2], pb.EVENT_KIND_RESUMED, row)
                return copy
        if seen is None:
            raise unknown_episode()
        self.rights.check_seals(journal, sink.tenant)
        if copy is not None:
            self._fence(copy, request.epoch)
        if self.draining:
            raise Refusal("this host drains; take a slot elsewhere", reason="DRAINING")
        try:
            slot = holding(seen.environment)
        except Refusal as refusal:
            if refusal.reason == "LEASE_INVALID" and request.attach_token:
                raise unknown_episode() from None  # who attaches to a copy brings no slot for another one
            raise
        copy = self._new_copy(request, slot, sink, apart=request.apart)
        running = RunningStep(seen.last_index, seen.last_action, None, "the resumption", payload)
        running.waiters = [waiter]
        running.base = seen.base
        self.adopt_stored(copy, seen.references, seen.base)
        self.traffic.note_resume("checkpoint" if seen.checkpointed else "replay", "rebuild")
        self.traffic.replayed_steps += seen.acts
        if copy.environment.served is not None:
            self._replay(copy, running, request)
        else:
            self._run(copy, pb.COMMAND_KIND_RESUME, running, payload)
        return copy

    def _replay(self, copy: EpisodeCopy, running: RunningStep, request: pb.ResumeRequest) -> None:
        """Rebuild a synchronous inline episode in stretches, between which everybody else's steps go on."""
        environment = copy.environment
        copy.running = running

        def make() -> Iterator[Row | None]:
            copy.seat = environment.player()
            return copy.seat.resume_by_steps(request)  # type: ignore[no-any-return]

        def done(result: Row | Refusal, seconds: float) -> None:
            open_to_frames(copy)
            self.settled(copy, running, pb.COMMAND_KIND_RESUME, result, seconds)

        self._replays.add(
            make, done, lambda: copy.running is running, lambda: overran(environment, pb.COMMAND_KIND_RESUME),
        )  # fmt: skip

    def _known_as(self, copy: EpisodeCopy, request: pb.ResetRequest, payload: bytes) -> bytes:
        """The bytes under which a copy knows this Reset: sent again it may come another way, under another lease."""
        running = copy.running
        if running is not None and not running.name and running.index == 0:
            known: bytes = running.action
        elif copy.index == 0:
            known = copy.action
        else:
            return payload
        if request.environment and self.environment(request.environment) is not copy.environment:
            return payload
        first = pb.ResetRequest.FromString(known)
        return known if beginning_of(first) == beginning_of(request) else payload

    def step(self, copy: EpisodeCopy, kind: int, index: int, action: bytes, waiter: Waiter) -> None:
        """Carry out a reset or step, or answer it from what is known.

        Raises:
            Refusal: as ``judge_step`` and ``join``.
        """
        if self.queue_behind(copy, kind, index, action, waiter):
            return
        verdict = judge_step(copy, index, action)
        if verdict is Verdict.CACHED:
            self.traffic.note_command(kind)
            if not (self.is_unsaved(copy) and self.hold_back(copy, [waiter], copy.row)):
                waiter[0].reply(waiter[1], waiter[2], OUTCOME, copy.row)
        elif verdict is Verdict.WAIT:
            join(copy.running.waiters, waiter)
        else:
            self._run(copy, kind, running_step(index, action, waiter), action)

    # ---- carrying out

    def _run(self, copy: EpisodeCopy, kind: int, running: RunningStep, payload: bytes) -> None:
        environment = copy.environment
        copy.running = running
        copy.close_to_steps()
        running.begun = started = time.perf_counter()
        if environment.served is not None:
            self.watch[LIMIT] = environment.limit(kind)
            self.watch[BEGAN] = started
            try:
                row: Row | Refusal = self._play(copy, kind, payload)
            except Refusal as refusal:
                row = refusal
            except StepOverrun:
                row = overran(environment, kind)
            finally:
                self.watch[BEGAN] = self.watch[LIMIT] = 0.0
            self.settled(copy, running, kind, row, time.perf_counter() - started)
            return

        def done(job: Job, result: Row | Refusal) -> None:
            self.settled(copy, running, kind, result, job.running_seconds)

        limit = environment.limit(kind)
        if kind == pb.COMMAND_KIND_RESUME:  # of each of its steps: a runner measures a replay step by step
            limit = max(limit, environment.step_limit)
        running.job = Job(kind, copy.seat, running.index, payload, limit, done)
        environment.runner.submit(running.job)

    def _play(self, copy: EpisodeCopy, kind: int, payload: bytes) -> Row:
        player = copy.seat
        if kind == STEP:
            return player.step(payload)  # type: ignore[no-any-return]
        if player is None:
            player = copy.seat = copy.environment.player()
            open_to_frames(copy)
        return player.reset(pb.ResetRequest.FromString(payload))  # type: ignore[no-any-return]

    def settled(
        self, copy: EpisodeCopy, running: RunningStep, kind: int, result: Row | Refusal, seconds: float | None
    ) -> None:
        """A reset, resume or step ended: note it, and answer those who wait. ``seconds`` is the environment's time,
        None where it was observed already."""
        if copy.running is not running:
            return
        try:
            self._settle(copy, running, kind, result, seconds)
        except Exception as error:
            self.defect(copy, running, error)

    def _settle(
        self, copy: EpisodeCopy, running: RunningStep, kind: int, result: Row | Refusal, seconds: float | None
    ) -> None:
        if seconds is not None:
            self._note_time(copy, running, kind, seconds)
        if copy.trace is not None:
            copy.trace.note(copy, kind, running.index, running.begun, seconds, result)
        reply_kind = REPLY_KINDS[kind]
        if (
            self.taps
            and kind != pb.COMMAND_KIND_RESUME
            and (tap := self.taps.get(copy.episode_id)) is not None
        ):
            tap.note_row(running.index, running.action, result, seconds)
        if copy.environment.takes_tools and kind == STEP:
            said = result if isinstance(result, Refusal) else result[4]
            note_tool_calls(copy.environment.observed, ((running.action, said),))
        if isinstance(result, Refusal):
            reply_kind = pb.EVENT_KIND_FAILURE
            self._refused(copy, running, kind, result)
        else:
            row = result
            bound = self._bound(copy)
            if size_of(row) > bound:
                self._refused(copy, running, kind, result := too_large(copy, row, bound))
                reply_kind = pb.EVENT_KIND_FAILURE
            else:
                self.traffic.note_command(kind)
                copy.environment.observed.observation_bytes += len(row[0])
                if kind == pb.COMMAND_KIND_RESUME:
                    copy.return_, row = row[1], _last_row(row)
                    result = (result[0], *row[1:4], b"")
                else:
                    copy.return_ += row[1]
                copy.settle(running.index, running.action, row)
                # An end that a journal holds was counted when it came.
                if row[2] & ENDED and kind != pb.COMMAND_KIND_RESUME:
                    note_ended(copy)
        saving = copy.environment.saves and not copy.failed
        if saving and reply_kind == OUTCOME and self.hold_back(copy, running.waiters, copy.row):
            return
        answer(running.waiters, reply_kind, result)
        running.waiters = []
        if saving:
            self.save_if_due(copy)

    def _refused(self, copy: EpisodeCopy, running: RunningStep, kind: int, refusal: Refusal) -> None:
        copy.running = None
        self.traffic.note_command(kind, refusal.reason)
        if kind != STEP and not refusal.ends_episode:
            self.close(copy)
        elif refusal.ends_episode:
            copy.settle(running.index, running.action, refusal)
            if kind == pb.COMMAND_KIND_RESUME:
                note_fallen(copy, refusal)  # what becomes of the episode, its client decides
                self.counts["diverged"] += refusal.reason == "REPLAY_DIVERGED"
            else:
                note_failure(copy, refusal)
        elif copy.play is not None:
            copy.open_to_steps()

    def _note_time(self, copy: EpisodeCopy, running: RunningStep, kind: int, seconds: float) -> None:
        """A command has run for so long in its environment, and taken so long altogether."""
        total = time.perf_counter() - running.begun if running.begun else seconds
        observed = copy.environment.observed
        if kind == STEP:
            observed.step_seconds.append(seconds)
            observed.step_totals.append(total)
            observed.action_bytes += len(running.action)
        elif kind == RESET:
            observed.reset_seconds.append(seconds)
            observed.reset_totals.append(total)
        else:
            self.traffic.note_seconds(kind, total)
            self.traffic.resume_seconds.append(total)

    def refused_inline(self, copy: EpisodeCopy, index: int, action: bytes, refusal: Refusal) -> None:
        """A step of the reader's fast path was refused."""
        copy.close_to_steps()
        self._refused(copy, RunningStep(index, action, None), STEP, refusal)

    def _take_over(
        self, copy: EpisodeCopy, request: pb.ResumeRequest, seen: Survey | None, sink: Sink
    ) -> bool:
        """Give a live copy to a newer epoch, where it is where the journal is."""
        if copy.client_id != sink.client_id:
            if request.attach_token:
                self.rights.check_attach_token(request.attach_token, sink.tenant, copy.episode_id)
            elif seen is None:
                raise Refusal(
                    "to take over another client's episode takes its attach token", reason="NOT_YOURS"
                )
        if copy.failed or copy.row is None:
            return False
        if seen is not None:
            if not seen.describes(copy.index, copy.row[3]):
                return False
            held = copy.client_id == sink.client_id and not request.attach_token
            if isinstance(copy.row, Dropped) and not held:
                return False  # the new owner has yet to see the last outcome, which is not here any more
            if copy.index > seen.last_index and saves_each_step(copy.environment):
                return False  # its last step comes with its checkpoint or not at all, and that is lost
        if copy.running is not None and copy.running.held is not None:
            return False  # nobody may hear of its last step before that is safe
        if copy.running is not None and request.epoch != copy.epoch:
            for waiting, handle, index in copy.running.dismissed():
                waiting.reply(handle, index, pb.EVENT_KIND_FAILURE, stale_copy())
        self.retell(copy, seen.references if seen is not None else ())
        self._let_go(copy, request.epoch)
        copy.handle = 0
        copy.idle_since = self.clock()
        copy.epoch = request.epoch
        copy.client_id = sink.client_id
        return True


def open_to_frames(copy: EpisodeCopy) -> None:
    """Let whole frames step the copy, where its environment can be, and nobody looks at single steps."""
    environment = copy.environment
    alone = environment.read_actions is None or environment.saves or copy.trace is not None
    if copy.seat is not None and not alone:
        copy.play = copy.seat.step_instance


def beginning_of(request: pb.ResetRequest) -> bytes:
    """What a Reset says of how the episode begins, as bytes to compare."""
    beginning = pb.ResetRequest(task=request.task, split=request.split)
    if request.HasField("seed"):
        beginning.seed = request.seed
    if request.HasField("options"):
        beginning.options.CopyFrom(request.options)
    return beginning.SerializeToString(deterministic=True)


def running_step(index: int, payload: bytes, waiter: Waiter) -> RunningStep:
    """A reset or step that is about to run, and the first who waits for it."""
    running = RunningStep(index, payload, None)
    running.waiters = [waiter]
    return running


def _last_row(row: Row) -> Row:
    """The last outcome's columns out of a resumption's row."""
    return row_of_outcome(pb.ResumeResponse.FromString(row[0]).last)
