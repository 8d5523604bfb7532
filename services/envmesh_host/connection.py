"""A client's connection: its handles and leases, and the fast path of the stream.

``run`` is where a host spends its time: it steps synchronous inline environments straight from a frame's columns,
without a task, future or lock an episode. Everything else goes to ``command``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf import duration_pb2

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.copy import CLOSED_TO_STEPS, EpisodeCopy, acknowledge
from envmesh_host.engine import Engine, parse, unknown_episode
from envmesh_host.outbox import LARGE_VALUE_BYTES, Event, Outbox
from envmesh_host.player import EMPTY_ROW
from envmesh_host.served import Row
from envmesh_host.slots import Holding

__all__ = ["STRETCH_SECONDS", "Columns", "Connection"]

STRETCH_SECONDS = 0.005
"""The reader steps inline environments for this long at most before it writes and yields."""

STEP = pb.COMMAND_KIND_STEP
OUTCOME = pb.EVENT_KIND_OUTCOME
FAILURE = pb.EVENT_KIND_FAILURE
MAX_ROWS = 4096


class Columns:
    """The rows of a request, as lists.

    Raises:
        Refusal: MALFORMED when the columns disagree in length, or a frame has too many rows.
    """

    __slots__ = ("arrived", "count", "handles", "indices", "kinds", "payloads", "position", "timeouts")

    def __init__(self, frame: pb.StreamRequest, arrived: float):
        self.handles = list(frame.handles)
        self.count = count = len(self.handles)
        self.indices = list(frame.indices) or [0] * count
        self.payloads = list(frame.payloads) or [b""] * count
        self.kinds = list(frame.kinds) or None
        self.timeouts = list(frame.timeouts) or None
        self.arrived = arrived
        self.position = 0
        lengths = (len(self.indices), len(self.payloads), len(self.kinds or self.handles),
                   len(self.timeouts or self.handles), len(frame.annotations) or count)  # fmt: skip
        if any(length != count for length in lengths):
            raise Refusal(f"the frame's columns disagree: {count} handles, others {lengths}", reason="MALFORMED")
        if count > MAX_ROWS:
            raise Refusal(f"a frame has at most {MAX_ROWS} rows; this has {count}", reason="MALFORMED")


class Connection:
    """One client's connection to this host. ``wake`` is set by the stream that writes for it."""

    def __init__(self, engine: Engine, hello: pb.Hello, tenant: str, watch: list[float], lease_idle: float):
        self.engine = engine
        self.client_id = hello.client_id
        self.connection_id = hello.connection_id
        self.tenant = tenant
        self.watch = watch
        self.lease_idle = lease_idle
        self.bindings: dict[int, EpisodeCopy] = {}
        self.leases: dict[int, Holding] = {}
        self.outbox = Outbox()
        self.large = Outbox()
        self.has_large_stream = False
        self.wake: Callable[[], None] = _nobody
        self.wake_large: Callable[[], None] = _nobody
        self.heard_at = time.monotonic()
        self.challenge = 0
        self.answered = 0
        self.deadlines: dict[tuple[int, int], float] = {}
        self.command_seconds: list[float] = []
        self.frames_in = 0
        self.events_out = 0
        self.frame_sizes: list[int] = []
        self._commands: dict[int, Callable[[int, int, bytes], None]] = {
            pb.COMMAND_KIND_STEP: self._step,
            pb.COMMAND_KIND_RESET: self._reset,
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
    def fenced(self) -> bool:
        """Whether no command may begin before the client has answered a challenge."""
        return self.answered < self.challenge

    # ---- the fast path

    def run(self, columns: Columns) -> bool:
        """Carry out rows from ``columns.position`` for at most a stretch. Returns whether all are done."""
        handles, indices, payloads, kinds = columns.handles, columns.indices, columns.payloads, columns.kinds
        position, count, arrived = columns.position, columns.count, columns.arrived
        binding = self.bindings.get
        emit = self.outbox.events.append
        watch = self.watch
        observe_command = self.command_seconds.append
        environment, observe_step = None, _nobody
        now = time.perf_counter
        stamp = now()
        stretch_end = stamp + STRETCH_SECONDS
        while position < count:
            handle = handles[position]
            index = indices[position]
            copy = binding(handle)
            if copy is not None and copy.next_index == index and (kinds is None or kinds[position] == STEP):
                action = payloads[position]
                watch[0] = stamp
                watch[1] = position
                try:
                    row = copy.play(action)
                except Refusal as refusal:
                    self.engine.refused_inline(copy, index, action, refusal)
                    row = None
                    self.reply(handle, index, FAILURE, refusal)
                watch[0] = 0.0
                if row is not None:
                    copy.index = index
                    copy.action = action
                    copy.row = row
                    copy.grade = None
                    if row[1]:
                        copy.return_ += row[1]
                    if row[2] & 3:
                        copy.next_index = CLOSED_TO_STEPS
                        self.engine.note_ended(copy)
                    else:
                        copy.next_index = index + 1
                    if len(row[0]) >= LARGE_VALUE_BYTES:
                        self._large_row(copy, handle, index, row)
                    else:
                        emit((handle, index, OUTCOME, row))
                if copy.environment is not environment:
                    environment = copy.environment
                    observe_step = environment.observed.step_seconds.append
                previous = stamp
                stamp = now()
                observe_step(stamp - previous)
            else:
                kind = STEP if kinds is None else kinds[position]
                timeout = columns.timeouts[position] if columns.timeouts else 0
                self.command(kind, handle, index, payloads[position], timeout)
                stamp = now()
            observe_command(stamp - arrived)
            position += 1
            if stamp > stretch_end:
                break
        columns.position = position
        return position >= count

    def _large_row(self, copy: EpisodeCopy, handle: int, index: int, row: Row) -> None:
        size = len(row[0]) + len(row[4])
        if size > self.engine.max_value_bytes:
            refusal = self.engine.too_large(copy, row)
            self.engine.refused_inline(copy, index, copy.action, refusal)
            self.reply(handle, index, FAILURE, refusal)
        else:
            self.reply(handle, index, OUTCOME, row)

    # ---- replies

    def reply(self, handle: int, index: int, kind: int, result: Row | Refusal) -> None:
        """Queue one event, and wake whoever writes."""
        if self.deadlines:
            self.deadlines.pop((handle, index), None)
        if isinstance(result, Refusal):
            result = (result.to_status().SerializeToString(), 0.0, 0, 0, b"")
            kind = FAILURE
        event: Event = (handle, index, kind, result)
        size = len(result[0])
        if size >= LARGE_VALUE_BYTES:
            if self.has_large_stream:
                self.large.events.append(event)
                self.large.large_bytes += size
                self.wake_large()
                return
            self.outbox.large_bytes += size
        self.outbox.events.append(event)
        self.wake()

    def notify(self, kind: int, copies: Sequence[EpisodeCopy], refusal: Refusal | None = None, **fields: Any) -> None:
        """Tell the client something it did not ask."""
        notice = pb.Notice(kind=kind, handles=[copy.handle for copy in copies], **fields)  # type: ignore[arg-type]
        if refusal is not None:
            for packed in refusal.to_status().details:
                if packed.Is(pb.Failure.DESCRIPTOR):
                    packed.Unpack(notice.failure)
        self.reply(0, 0, pb.EVENT_KIND_NOTICE, (notice.SerializeToString(), 0.0, 0, 0, b""))

    def notify_draining(self, deadline: float | None) -> None:
        """This host takes no new episode; those here should move within ``deadline`` seconds (None: no end)."""
        fields = {} if deadline is None else {"deadline": duration_pb2.Duration(seconds=int(deadline))}
        self.notify(pb.NOTICE_KIND_DRAINING, (), **fields)

    # ---- every other command

    def command(self, kind: int, handle: int, index: int, payload: bytes, timeout_ms: int) -> None:
        """Carry out one row; every error is a FAILURE event and harms nothing else."""
        carry_out = self._commands.get(kind)
        try:
            if carry_out is None:
                raise Refusal(f"command kind {kind} is unknown to this host", reason="ARGUMENT_INVALID")
            if handle == 0:
                raise Refusal("handle 0 names nothing", reason="ARGUMENT_INVALID")
            if timeout_ms:
                self.deadlines[handle, index] = time.monotonic() + timeout_ms / 1e3
            carry_out(handle, index, payload)
        except Refusal as refusal:
            self.reply(handle, index, FAILURE, refusal)

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
        bound = self.bindings.get(handle)
        if bound is not None and bound.episode_id != request.episode_id:
            raise Refusal(f"handle {handle} names another episode; close that first", reason="ARGUMENT_INVALID")
        copy = self.engine.reset(request, payload, self._lease(request.lease_number), self)
        self._bind_copy(handle, copy)
        self.engine.step(copy, pb.COMMAND_KIND_RESET, 0, payload, (self, handle, 0))

    def _resume(self, handle: int, index: int, payload: bytes) -> None:
        request = parse(pb.ResumeRequest, payload)
        holding = self.leases.get(request.lease_number)
        copy = self.engine.resume(request, holding, self, (self, handle, index))
        if self.engine.episodes.get(copy.episode_id) is copy:
            self._bind_copy(handle, copy)

    def _bind_copy(self, handle: int, copy: EpisodeCopy) -> None:
        copy.connection = self
        copy.handle = handle
        self.bindings[handle] = copy

    def _close(self, handle: int, index: int, payload: bytes) -> None:
        copy = self.bindings.get(handle)
        if copy is not None:
            self.engine.close(copy)
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

    def _lease(self, number: int) -> Holding:
        holding = self.leases.get(number)
        if holding is None:
            raise Refusal(f"no lease {number} was shown on this connection", reason="LEASE_INVALID")
        return holding

    def _bind(self, handle: int, index: int, payload: bytes) -> None:
        engine = self.engine
        claim = engine.rights.claim(payload, self.client_id)
        if claim.tenant != self.tenant:
            raise Refusal("the lease is another tenant's", reason="LEASE_INVALID")
        environment = engine.environment(claim.environment)
        if engine.draining and engine.slots.holding(claim.lease_id) is None:
            raise Refusal("this host drains; take a slot elsewhere", reason="DRAINING")
        holding = engine.slots.show(claim, engine.clock())
        self.leases[handle] = holding
        bound = pb.LeaseBound(
            environment=environment.info,
            count=holding.count,
            lease_idle=duration_pb2.Duration(seconds=int(self.lease_idle), nanos=int(self.lease_idle % 1 * 1e9)),
        )
        self.reply(handle, index, pb.EVENT_KIND_BOUND, (bound.SerializeToString(), 0.0, 0, 0, b""))

    def _return(self, handle: int, index: int, payload: bytes) -> None:
        holding = self.leases.get(handle)
        back = self.engine.slots.give_back(holding, index) if holding is not None else 0
        if holding is not None and holding.count == 0:
            del self.leases[handle]
        self.reply(handle, back, pb.EVENT_KIND_RETURNED, EMPTY_ROW)
        self.engine.on_slot_freed()

    def slots_returned(self, holding: Holding, count: int) -> None:
        """Slots of a lease went back by themselves or by recall: tell the client."""
        for number, held in list(self.leases.items()):
            if held is holding:
                self.notify(pb.NOTICE_KIND_SLOTS_RETURNED, (), lease_number=number, count=count)
                if holding.count == 0:
                    del self.leases[number]

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
            waiting = [w for w in running.waiters if w[0] is self and w[1] == handle and w[2] == index]
            if waiting:
                running.waiters = [w for w in running.waiters if w not in waiting]
                refusal = Refusal("the command's time is over; the step goes on", reason="COMMAND_DEADLINE")
                self.reply(handle, index, FAILURE, refusal)


def _nobody(*_: Any) -> None:
    return None
