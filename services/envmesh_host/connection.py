"""A client's connection: its handles, its leases, and what each of its commands does.

The steps of a frame that synchronous inline environments can take at once go to ``StepBatches``, as columns; everything
else goes to ``command``, row by row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from google.protobuf import duration_pb2

from envmesh.errors import Refusal
from envmesh.frame_bounds import FRAME_HEAD_BYTES, LARGE_VALUE_BYTES, MOST_BYTES
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.batches import STRETCH_SECONDS, StepBatches
from envmesh_host.columns import Columns
from envmesh_host.copy import EpisodeCopy, acknowledge
from envmesh_host.counting import named
from envmesh_host.engine import Engine
from envmesh_host.journals import check_length
from envmesh_host.outbox import Outbox
from envmesh_host.parsing import parse
from envmesh_host.player import EMPTY_ROW
from envmesh_host.refusals import defective, unknown_episode
from envmesh_host.served import Row, size_of
from envmesh_host.shown_leases import ShownLeases
from envmesh_host.slots import Holding
from envmesh_service.credentials import Caller

__all__ = ["Connection"]

log = logging.getLogger("envmesh.host")

STEP, RESET = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET
OUTCOME = pb.EVENT_KIND_OUTCOME
FAILURE = pb.EVENT_KIND_FAILURE
ANSWERED_AT_ONCE = frozenset(
    {
        pb.COMMAND_KIND_CLOSE,
        pb.COMMAND_KIND_BIND,
        pb.COMMAND_KIND_RETURN,
        pb.COMMAND_KIND_DETACH,
        pb.COMMAND_KIND_ACKNOWLEDGE,
    }
)
"""The kinds whose work is done when they were carried out: the engine counts all others itself, and only those can keep
their caller waiting."""


class Connection:
    """One client's connection to this host. ``wake`` is set by the stream that writes for it."""

    def __init__(
        self,
        engine: Engine,
        hello: pb.Hello,
        caller: Caller,
        *,
        lease_idle: float,
        liveness_window: float,
        checkpoint_seconds: float = 0.0,
    ):
        self.engine = engine
        self.client_id = hello.client_id
        self.connection_id = hello.connection_id
        self.caller = caller
        self.tenant = caller.tenant
        self.watch = engine.watch
        self.liveness_window = liveness_window
        self.checkpoint_steps = hello.checkpoint_steps
        self.checkpoint_seconds = checkpoint_seconds
        self.bindings: dict[int, EpisodeCopy] = {}
        self.leases = ShownLeases(engine, self.tenant, self.client_id, lease_idle)
        most_bytes = hello.max_frame_bytes or engine.max_value_bytes + FRAME_HEAD_BYTES
        self.max_value_bytes = min(engine.max_value_bytes, most_bytes - FRAME_HEAD_BYTES)
        self.outbox = Outbox(min(MOST_BYTES, self.max_value_bytes))
        self.large = Outbox(self.outbox.most_bytes)
        self.has_large_stream = False
        self.wake: Callable[[], None] = _nobody
        self.wake_large: Callable[[], None] = _nobody
        self.large_room: Callable[[], Awaitable[None]] = _room
        self.end: Callable[[Refusal | None], None] = _nobody
        self.end_large: Callable[[], object] = _nobody
        self.heard_at = time.monotonic()
        self.challenge = 0
        self.answered = 0
        self.doubted = False
        self.deadlines: dict[tuple[int, int], float] = {}
        self._fetching: dict[int, pb.ResumeRequest] = {}
        self._batches = StepBatches(self)
        self._commands: dict[int, Callable[[int, int, bytes], None]] = {
            STEP: self._step,
            RESET: self._reset,
            pb.COMMAND_KIND_CLOSE: self._close,
            pb.COMMAND_KIND_REWARD: self._reward,
            pb.COMMAND_KIND_CHECKPOINT: self._checkpoint,
            pb.COMMAND_KIND_RESUME: self._resume,
            pb.COMMAND_KIND_BIND: self._bind,
            pb.COMMAND_KIND_RETURN: self._return,
            pb.COMMAND_KIND_DETACH: self._detach,
            pb.COMMAND_KIND_ACKNOWLEDGE: self._acknowledge,
        }

    @property
    def unsent_bytes(self) -> int:
        """Bytes of values that its client has still to be sent."""
        return self.outbox.total_bytes + self.large.total_bytes

    @property
    def fenced(self) -> bool:
        """Whether no command may begin before the client has answered a challenge."""
        return self.answered < self.challenge

    def in_doubt(self, now: float) -> bool:
        """Whether nothing may begin for its episodes, at a moment of ``time.monotonic``."""
        return self.fenced or now - self.heard_at > self.liveness_window

    # ---- work

    def work(self, columns: Columns) -> Iterator[None]:
        """Carry out the rows of a request, and yield after each stretch."""
        now = time.perf_counter
        end = now() + STRETCH_SECONDS
        kinds, timeouts = columns.kinds, columns.timeouts
        for row in columns.others:
            kind = STEP if kinds is None else kinds[row]
            timeout = timeouts[row] if timeouts is not None else 0
            self.command(kind, columns.handles[row], columns.indices[row], columns.payloads[row], timeout)
            if now() > end:
                yield
                end = now() + STRETCH_SECONDS
        if columns.steps.handles:
            yield from self._batches.step(columns)
        yield

    def step_alone(self, handle: int, index: int, payload: bytes, arrived: float) -> bool:
        """Take the step that is all there is in a request. Returns whether it was an ordinary one; if not, nothing has
        happened."""
        try:
            return self._batches.step_alone(handle, index, payload, arrived)
        except Exception as error:
            self.defect_in_steps((handle,), (index,), error)
            return True

    # ---- replies

    def reply(self, handle: int, index: int, kind: int, result: Row | Refusal) -> None:
        """Queue one event, and wake whoever writes."""
        if self.deadlines:
            self.deadlines.pop((handle, index), None)
        if isinstance(result, Refusal):
            result = (result.to_status().SerializeToString(), 0.0, 0, 0, b"")
            kind = FAILURE
        if self.has_large_stream and size_of(result) >= LARGE_VALUE_BYTES:
            self.large.add(handle, index, kind, result)
            self.wake_large()
            return
        self.outbox.add(handle, index, kind, result)
        self.wake()

    def reply_saved(self, waiting: Sequence[tuple[int, int]], row: Row, sealed: Row) -> None:
        """Queue an outcome, for each of the commands (handle and index) that wait for it, behind its checkpoint, which
        comes once. All on one stream: whoever has the one has the other."""
        large = self.has_large_stream and max(size_of(row), size_of(sealed)) >= LARGE_VALUE_BYTES
        events = self.large if large else self.outbox
        events.add(*waiting[0], pb.EVENT_KIND_CHECKPOINT, sealed)
        for handle, index in waiting:
            self.deadlines.pop((handle, index), None)
            events.add(handle, index, pb.EVENT_KIND_OUTCOME, row)
        (self.wake_large if large else self.wake)()

    def notify(
        self, kind: int, copies: Sequence[EpisodeCopy], refusal: Refusal | None = None, **fields: Any
    ) -> None:
        """Tell the client something it did not ask."""
        notice = pb.Notice(kind=kind, handles=[copy.handle for copy in copies], **fields)  # type: ignore[arg-type]
        if refusal is not None:
            for packed in refusal.to_status().details:
                if packed.Is(pb.Failure.DESCRIPTOR):
                    packed.Unpack(notice.failure)
        self.reply(0, 0, pb.EVENT_KIND_NOTICE, (notice.SerializeToString(), 0.0, 0, 0, b""))

    def notify_draining(self, draining: bool, deadline: float | None) -> None:
        """This host takes no new episode; those here should move within ``deadline`` seconds (None: no end). Or: it
        does again."""
        if not draining:
            self.notify(pb.NOTICE_KIND_DRAIN_CANCELLED, ())
        elif deadline is None:
            self.notify(pb.NOTICE_KIND_DRAINING, ())
        else:
            left = duration_pb2.Duration()
            left.FromNanoseconds(max(0, int(deadline * 1e9)))
            self.notify(pb.NOTICE_KIND_DRAINING, (), deadline=left)

    # ---- every other command

    def command(self, kind: int, handle: int, index: int, payload: bytes, timeout_ms: int) -> None:
        """Carry out one row; every error is a FAILURE event and harms nothing else."""
        carry_out = self._commands.get(kind)
        try:
            if carry_out is None:
                raise Refusal(f"command kind {kind} is unknown to this host", reason="ARGUMENT_INVALID")
            if handle == 0:
                raise Refusal("handle 0 names nothing", reason="ARGUMENT_INVALID")
            if kind == RESET:
                index = 0  # it is answered under that index, whatever it was sent under
            if timeout_ms and kind not in ANSWERED_AT_ONCE:
                self.deadlines[handle, index] = time.monotonic() + timeout_ms / 1e3
            carry_out(handle, index, payload)
            if kind in ANSWERED_AT_ONCE:
                self.engine.traffic.note_command(kind)
        except Refusal as refusal:
            self.engine.traffic.note_command(kind, refusal.reason)
            self.reply(handle, index, FAILURE, refusal)
        except Exception as error:
            self.engine.traffic.note_command(kind, "INTERNAL")
            self._defect(handle, index, error)

    def _carry_out(self, work: Callable[[], None], handle: int, index: int) -> None:
        """Do the rest of a command that had to wait for something."""
        try:
            work()
        except Refusal as refusal:
            self.reply(handle, index, FAILURE, refusal)
        except Exception as error:
            self._defect(handle, index, error)

    def _defect(self, handle: int, index: int, error: Exception) -> None:
        """A defect of ours ends the episode it happened to, and nothing else."""
        copy = self.bindings.get(handle)
        who = {"client": self.client_id.hex()} | (named(copy) if copy is not None else {})
        log.error("a defect in a command of handle %d at index %d", handle, index, exc_info=error, extra=who)
        if copy is not None and copy.running is not None:
            self.engine.abort(copy, defective(error))
        else:
            self.reply(handle, index, FAILURE, defective(error))

    def defect_in_steps(self, handles: Sequence[int], indices: Sequence[int], error: Exception) -> None:
        """A defect of ours in steps taken together ends those episodes whose outcome is not on its way: what their
        environments have done can neither be told nor done again."""
        who = {"client": self.client_id.hex()}
        log.error("a defect in %d steps, the first of handle %d at index %d", len(handles), handles[0], indices[0],
                  exc_info=error, extra=who)  # fmt: skip
        for handle, index in zip(handles, indices, strict=True):
            copy = self.bindings.get(handle)
            if copy is not None and copy.index < index:
                copy.running = None
                self.engine.abort(copy, defective(error))
                self.reply(handle, index, FAILURE, defective(error))

    def _copy(self, handle: int) -> EpisodeCopy:
        copy = self.bindings.get(handle)
        if copy is None:
            raise unknown_episode()
        return copy

    def _step(self, handle: int, index: int, payload: bytes) -> None:
        if index < 1:
            raise Refusal("the first step has index 1; 0 is reset", reason="STEP_INDEX")
        self.engine.step(self._copy(handle), STEP, index, payload, (self, handle, index))

    def _reset(self, handle: int, index: int, payload: bytes) -> None:
        request = parse(pb.ResetRequest, payload)
        self._free(handle, request.episode_id)
        self.engine.reset(
            request, payload, lambda: self.leases.holding(request.lease_number), self, (self, handle, index),
            lambda copy: self._bind_copy(handle, copy),
        )  # fmt: skip

    def _resume(self, handle: int, index: int, payload: bytes) -> None:
        check_length(payload)
        request = parse(pb.ResumeRequest, payload)

        def resume() -> None:
            self._free(handle, request.episode_id)
            copy = self.engine.resume(
                request,
                lambda environment: self.leases.holding(request.lease_number),
                self,
                (self, handle, index),
            )
            if self.engine.episodes.get(copy.episode_id) is copy:
                self._bind_copy(handle, copy)

        def fetched(refusal: Refusal | None) -> None:
            if self._fetching.get(handle) is not request:
                return  # closed meanwhile, or asked again
            del self._fetching[handle]
            if refusal is not None:
                self.engine.traffic.note_command(pb.COMMAND_KIND_RESUME, refusal.reason)
                self.reply(handle, index, FAILURE, refusal)
            else:
                self._carry_out(resume, handle, index)

        if not self._fetches(request, handle, fetched):
            resume()

    def _fetches(
        self, request: pb.ResumeRequest, handle: int, fetched: Callable[[Refusal | None], None]
    ) -> bool:
        """Whether what a resumption begins with has to be fetched; ``_fetching`` says which handles wait for that."""
        if self.engine.fetch_checkpoints(request.journal, self.tenant, fetched):
            self._fetching[handle] = request
            return True
        return False

    def _free(self, handle: int, episode_id: bytes) -> None:
        """Make a handle free for an episode: one that is over and still has it is closed."""
        bound = self.bindings.get(handle)
        if bound is None or bound.episode_id == episode_id:
            return
        if not bound.ended:
            raise Refusal(
                f"handle {handle} names another episode; close that first", reason="ARGUMENT_INVALID"
            )
        self.engine.forget_checkpoints(bound)
        self.engine.close(bound)

    def _bind_copy(self, handle: int, copy: EpisodeCopy) -> None:
        if copy.connection is not None:  # one handle, of one connection: the last to name it
            copy.connection.unbind(copy)
        copy.connection = self
        copy.handle = handle
        self.bindings[handle] = copy

    def _close(self, handle: int, index: int, payload: bytes) -> None:
        copy = self.bindings.get(handle)
        if self._fetching.pop(handle, None) is not None:
            self.reply(handle, index, FAILURE, Refusal("the episode was closed", reason="CANCELLED"))
        moved = False
        if payload:
            request = parse(pb.CloseRequest, payload)
            copy = self.engine.episodes.get(request.episode_id)
            if copy is not None and (copy.tenant != self.tenant or copy.epoch > request.epoch):
                copy = None
            # Where it has moved it may need what was saved.
            moved = copy is not None and copy.epoch < request.epoch
        if copy is not None:
            if not moved:
                self.engine.forget_checkpoints(copy)
            self.engine.close(copy, superseded=moved)
        self.reply(handle, index, pb.EVENT_KIND_CLOSED, EMPTY_ROW)

    def _reward(self, handle: int, index: int, payload: bytes) -> None:
        again = bool(payload) and parse(pb.RewardRequest, payload).again
        self.engine.grade(self._copy(handle), again, (self, handle, index))

    def _checkpoint(self, handle: int, index: int, payload: bytes) -> None:
        self.engine.checkpoint(self._copy(handle), (self, handle, index))

    def _detach(self, handle: int, index: int, payload: bytes) -> None:
        copy = self._copy(handle)
        token = self.engine.rights.attach_token(copy)
        self.unbind(copy)
        self.reply(handle, index, pb.EVENT_KIND_DETACHED, (token, 0.0, 0, 0, b""))

    def _acknowledge(self, handle: int, index: int, payload: bytes) -> None:
        copy = self.bindings.get(handle)
        if copy is not None and copy.index == index:
            acknowledge(copy)

    # ---- leases

    def _bind(self, handle: int, index: int, payload: bytes) -> None:
        bound = self.leases.show(handle, payload)
        self.reply(handle, index, pb.EVENT_KIND_BOUND, (bound.SerializeToString(), 0.0, 0, 0, b""))

    def _return(self, handle: int, index: int, payload: bytes) -> None:
        back = self.leases.give_back(handle, index)
        self.reply(handle, back, pb.EVENT_KIND_RETURNED, EMPTY_ROW)
        self.engine.on_slot_freed()

    def slots_returned(self, holding: Holding, count: int) -> None:
        """Slots of a lease went back by themselves or by recall: tell the client."""
        for number in self.leases.shrunk(holding):
            self.notify(pb.NOTICE_KIND_SLOTS_RETURNED, (), lease_number=number, count=count)

    # ---- leaving

    def unbind(self, copy: EpisodeCopy) -> None:
        """The handle names nothing any more; the copy waits for its client, or is gone."""
        if self.bindings.get(copy.handle) is copy:
            del self.bindings[copy.handle]
        copy.connection = None
        copy.idle_since = self.engine.clock()

    def taken_over(self, copy: EpisodeCopy) -> None:
        """A newer owner has the copy."""
        self.notify(pb.NOTICE_KIND_TAKEN_OVER, (copy,))
        self.unbind(copy)

    def lost(self) -> None:
        """The connection is gone: its copies wait for the re-attach window."""
        for copy in list(self.bindings.values()):
            self.unbind(copy)
        self.leases.clear()
        self._fetching.clear()
        self.end_large()
        self.wake = self.wake_large = _nobody

    def overdue(self, now: float) -> None:
        """Answer commands whose caller's patience has ended; the step goes on, its reply is kept."""
        for (handle, index), deadline in list(self.deadlines.items()):
            if now < deadline:
                continue
            self.deadlines.pop((handle, index), None)
            copy = self.bindings.get(handle)
            running = copy.running if copy is not None else None
            if running is None:
                continue
            lists = [running.waiters, running.held or [], running.following[3] if running.following else []]
            mine = (self, handle, index)
            if any(mine in waiters for waiters in lists):
                for waiters in lists:
                    waiters[:] = [waiter for waiter in waiters if waiter != mine]
                refusal = Refusal("the command's time is over; the step goes on", reason="COMMAND_DEADLINE")
                self.reply(handle, index, FAILURE, refusal)


def _nobody(*_: Any) -> None:
    return None


async def _room() -> None:
    return None
