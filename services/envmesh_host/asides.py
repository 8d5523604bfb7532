"""Commands that are no step: grading and saving. They run alone; a step that comes meanwhile waits behind them, and so
does a grading that comes while the episode is saved, which a host may do unasked."""

from __future__ import annotations

import time
from typing import Any

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.copy import EpisodeCopy, RunningStep, conflict
from envmesh_host.counting import note_failure
from envmesh_host.hosted import Waiter
from envmesh_host.isolation.runner import Job
from envmesh_host.overrun import StepOverrun
from envmesh_host.refusals import overran, too_large
from envmesh_host.roster import Roster
from envmesh_host.served import Row, size_of
from envmesh_host.testimony import BEGAN, LIMIT

__all__ = ["CHECKPOINT", "MOST_WAITERS", "REPLIES", "REWARD", "Asides", "answer", "join"]

REWARD, CHECKPOINT = pb.COMMAND_KIND_REWARD, pb.COMMAND_KIND_CHECKPOINT
NAMES: dict[int, str] = {REWARD: "the grading", CHECKPOINT: "the checkpoint"}
REPLIES: dict[int, int] = {REWARD: pb.EVENT_KIND_REWARD, CHECKPOINT: pb.EVENT_KIND_CHECKPOINT}
MOST_WAITERS = 64
"""How often one command may be waited for: a client sends it again when it has lost a connection, or its patience."""

AGAIN = b"again"
"""What a grading that waits has for its action, where it is not to be answered from what is known."""


class Asides(Roster):
    """Grading, and what it has in common with saving."""

    def grade(self, copy: EpisodeCopy, again: bool, waiter: Waiter) -> None:
        """Grade an episode as it stands. Raises: Refusal UNSUPPORTED, STEP_INDEX while a step runs or waits."""
        if not copy.environment.info.grades:
            raise Refusal(f"{copy.environment.key} has no reward()", reason="UNSUPPORTED")
        if copy.grade is not None and copy.grade[0] == copy.index and not again:
            self.traffic.note_command(REWARD)
            waiter[0].reply(waiter[1], waiter[2], pb.EVENT_KIND_REWARD, copy.grade[1])
            return
        if copy.running is not None and copy.running.name == NAMES[CHECKPOINT]:
            _wait_behind(copy.running, REWARD, copy.index, AGAIN if again else b"", waiter)
            return
        running = self._aside(copy, REWARD, waiter)
        if running is not None:
            self._begin_aside(copy, REWARD, running)

    def queue_behind(self, copy: EpisodeCopy, kind: int, index: int, action: bytes, waiter: Waiter) -> bool:
        """A step that comes while the episode is graded or saved waits its turn, and so does the last one, sent again
        while its outcome is held back. Returns whether it does.

        Raises:
            Refusal: STEP_CONFLICT when another action waits at this index, STEP_INDEX when a grading waits, NO_CAPACITY
                when it waits too often.
        """
        running = copy.running
        if running is None or running.name not in NAMES.values():
            return False
        if index == copy.index and running.held is not None:
            if copy.action != action:
                raise conflict(index)
            join(running.held, waiter)
            return True
        if index != copy.index + 1 or copy.ended:
            return False
        _wait_behind(running, kind, index, action, waiter)
        return True

    # ---- carrying out

    def _aside(self, copy: EpisodeCopy, kind: int, waiter: Waiter) -> RunningStep | None:
        """Make ready to run a command that is no step; None where the same one runs already.

        Raises:
            Refusal: STEP_INDEX while another command runs, NO_CAPACITY when the same is waited for too often, or what
                ended the episode.
        """
        name = NAMES[kind]
        if copy.running is not None:
            if copy.running.name != name:
                raise Refusal(f"{copy.running} is running; wait for it", reason="STEP_INDEX")
            join(copy.running.waiters, waiter)
            return None
        if copy.failed:
            raise copy.row
        running: RunningStep = RunningStep(copy.index, b"", None, name)
        copy.running = running
        running.begun = time.perf_counter()
        running.waiters = [waiter]
        copy.close_to_steps()
        return running

    def _begin_aside(self, copy: EpisodeCopy, kind: int, running: RunningStep) -> None:
        """Run it."""
        environment = copy.environment

        def done(job: Job, result: Row | Refusal) -> None:
            try:
                self._aside_done(copy, kind, running, result, job.running_seconds)
            except Exception as error:
                self.defect(copy, running, error)

        job = Job(kind, copy.seat, running.index, b"", environment.limit(kind), done)
        if environment.served is None:
            running.job = job
            environment.runner.submit(job)
            return
        self.watch[LIMIT] = environment.limit(kind)
        self.watch[BEGAN] = started = time.perf_counter()
        try:
            row: Row | Refusal = copy.seat.reward(running.index) if kind == REWARD else copy.seat.checkpoint()
        except Refusal as refusal:
            row = refusal
        except StepOverrun:
            row = overran(environment, kind)
        finally:
            self.watch[BEGAN] = self.watch[LIMIT] = 0.0
        job.running_seconds = time.perf_counter() - started
        done(job, row)

    def _aside_done(
        self, copy: EpisodeCopy, kind: int, running: RunningStep, result: Row | Refusal, seconds: float
    ) -> None:
        """The environment has answered."""
        if copy.running is not running:
            return
        if kind == REWARD:
            copy.environment.observed.reward_seconds.append(seconds)
            if not isinstance(result, Refusal):
                bound = self._bound(copy)
                if size_of(result) > bound:
                    result = too_large(copy, result, bound)
                else:
                    self._note_grade(copy, result)
        if copy.trace is not None:
            copy.trace.note(copy, kind, running.index, running.begun, seconds, result)
        self._aside_over(copy, kind, running, result)

    def _aside_over(self, copy: EpisodeCopy, kind: int, running: RunningStep, result: Row | Refusal) -> None:
        """Answer those who wait, and take what waits behind."""
        copy.running = None
        if copy.play is not None and not copy.ended:
            copy.open_to_steps()
        self.traffic.note_seconds(kind, time.perf_counter() - running.begun)
        self.traffic.note_command(kind, result.reason if isinstance(result, Refusal) else "")
        if isinstance(result, Refusal) and result.ends_episode:
            over = copy.ended
            copy.row = result
            copy.close_to_steps()
            note_failure(copy, result, over=over)
        answer(running.waiters, REPLIES[kind], result)
        running.waiters = []
        if running.following is None:
            return
        (next_kind, index, action, behind), running.following = running.following, None
        for waiter in behind:
            try:
                if next_kind == REWARD:
                    self.grade(copy, action == AGAIN, waiter)
                else:
                    self.step(copy, next_kind, index, action, waiter)
            except Refusal as refusal:
                answer([waiter], pb.EVENT_KIND_FAILURE, refusal)

    def step(self, copy: EpisodeCopy, kind: int, index: int, action: bytes, waiter: Waiter) -> None:
        """Carry out a reset or step (the engine does)."""
        raise NotImplementedError

    def _bound(self, copy: EpisodeCopy) -> int:
        """How many bytes a reply to this episode's client may have."""
        connection = copy.connection
        return self.max_value_bytes if connection is None else int(connection.max_value_bytes)

    def _note_grade(self, copy: EpisodeCopy, row: Row) -> None:
        copy.grade = (copy.index, row)
        observed, reply = copy.environment.observed, pb.RewardResponse.FromString(row[0])
        observed.grades[reply.valid] = observed.grades.get(reply.valid, 0) + 1
        for component in reply.components:
            observed.components.setdefault(component.name, []).append(component.value)


def _wait_behind(running: RunningStep, kind: int, index: int, action: bytes, waiter: Waiter) -> None:
    """Let a step or grading wait until what runs is over. There is room for one of them, whoever asks for it.

    Raises:
        Refusal: STEP_CONFLICT when a step with another action waits, STEP_INDEX when it is the other that waits, and
            that of ``join``.
    """
    following = running.following
    if following is None:
        running.following = (kind, index, action, [waiter])
        return
    if following[0] != kind:
        waits = NAMES.get(following[0], f"step {following[1]}")
        raise Refusal(f"{waits} waits behind {running}; wait for it", reason="STEP_INDEX")
    if kind != REWARD and following[2] != action:
        raise conflict(index)
    join(following[3], waiter)


def join(waiters: list[Any], waiter: Waiter) -> None:
    """Wait for a command that others wait for already.

    Raises:
        Refusal: NO_CAPACITY when they are too many: each gets an answer of its own, all at the same moment.
    """
    if len(waiters) >= MOST_WAITERS:
        raise Refusal(
            f"{MOST_WAITERS} times this very command waits for its reply already",
            reason="NO_CAPACITY",
            retry_after=1.0,
        )
    waiters.append(waiter)


def answer(waiters: list[Any], kind: int, result: Row | Refusal) -> None:
    """Tell those who wait."""
    for sink, handle, index in waiters:
        sink.reply(handle, index, pb.EVENT_KIND_FAILURE if isinstance(result, Refusal) else kind, result)
