"""The fast path of a host: steps of synchronous inline environments, a whole frame at a time.

This is where a host spends its time. The actions of a frame are decoded together, the environments stepped one after
the other, the outcomes encoded, digested and kept together, without a task, future, lock or reply object an episode.
What is out of the ordinary (a wrong index, a bad action, an exception, a large value) goes the long way, row by row,
where each case has its answer.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Collection, Iterator
from itertools import compress, islice
from operator import add, attrgetter, call
from typing import TYPE_CHECKING, Any, NamedTuple

from envmesh.errors import Refusal
from envmesh.frame_bounds import LARGE_REPLY_BYTES, LARGE_VALUE_BYTES
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.columns import Columns
from envmesh_host.copy import EpisodeCopy, RunningStep
from envmesh_host.counting import note_ended
from envmesh_host.hosted import Hosted
from envmesh_host.overrun import StepOverrun
from envmesh_host.refusals import overran
from envmesh_host.served import ENDED, OutcomeColumns, Row, size_of
from envmesh_host.shown import raised
from envmesh_host.step_times import stride_of
from envmesh_host.testimony import BEGAN, LIMIT
from envmesh_host.tool_calls import note_tool_calls

if TYPE_CHECKING:
    from envmesh_host.connection import Connection

__all__ = ["STRETCH_SECONDS", "StepBatches"]

STRETCH_SECONDS = 0.005
"""The reader steps inline environments for this long at most before it writes and yields."""

STEP, OUTCOME = pb.COMMAND_KIND_STEP, pb.EVENT_KIND_OUTCOME


class Batch(NamedTuple):
    """Steps that are taken together: rows, seen from the side."""

    copies: list[EpisodeCopy]
    handles: list[int]
    indices: list[int]
    payloads: list[bytes]

    def chosen(self, choose: list[bool]) -> Batch:
        """The rows where ``choose`` is true."""
        copies, handles, indices, payloads = self
        return Batch(
            list(compress(copies, choose)),
            list(compress(handles, choose)),
            list(compress(indices, choose)),
            list(compress(payloads, choose)),
        )

    def part(self, start: int, end: int) -> Batch:
        """The rows from ``start`` to ``end``."""
        copies, handles, indices, payloads = self
        return Batch(copies[start:end], handles[start:end], indices[start:end], payloads[start:end])


class StepBatches:
    """Takes the steps of one connection."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._engine = connection.engine
        self._watch = connection.engine.watch
        self._small_bytes = min(LARGE_VALUE_BYTES, connection.max_value_bytes)
        """What has fewer bytes is neither large nor too large."""
        self._kept_bytes = min(LARGE_REPLY_BYTES, connection.max_value_bytes)
        """Replies that have fewer may be kept together."""

    def step(self, columns: Columns) -> Iterator[None]:
        """Take the steps of a request, those of the cheapest environment first, and yield after each stretch but the
        last."""
        handles, indices, payloads = columns.steps
        copies: list[Any] = list(map(self._connection.bindings.get, handles))
        batch = Batch(copies, handles, indices, payloads)
        if None in copies or [copy.next_index for copy in copies] != indices:
            batch = self._due(batch)
        environments: Collection[Hosted] = self._engine.hosted.values()
        if len(environments) > 1:
            environments = sorted({copy.environment for copy in batch.copies}, key=attrgetter("row_cost"))
        now, yielded = time.perf_counter, False
        for environment in environments:
            mine = batch
            if len(environments) > 1:
                mine = batch.chosen([copy.environment is environment for copy in batch.copies])
            at, total = 0, len(mine.copies)
            while at < total:
                cost = max(environment.row_cost, environment.step_cost)  # lone steps tell of the latter only
                end = min(total, at + max(1, int(STRETCH_SECONDS / cost)))
                begun = now()
                part = self._due(mine.part(at, end)) if yielded else mine.part(at, end)
                try:
                    self._step(environment, part, columns.arrived)
                except Exception as defect:
                    self._connection.defect_in_steps(part.handles, part.indices, defect)
                environment.row_cost += 0.2 * ((now() - begun) / (end - at) - environment.row_cost)
                at = end
                if at < total or len(environments) > 1:
                    yielded = True  # and who knows what has come meanwhile
                    yield

    def _due(self, batch: Batch) -> Batch:
        """Those of a batch whose turn it is; each of the others is looked at with care, row by row."""
        bound = map(self._connection.bindings.get, batch.handles)
        due = [
            copy is not None and here is copy and copy.next_index == index
            for here, copy, index in zip(bound, batch.copies, batch.indices, strict=True)
        ]
        if all(due):
            return batch
        self._row_by_row(batch.chosen([not each for each in due]))
        return batch.chosen(due)

    def step_alone(self, handle: int, index: int, payload: bytes, arrived: float) -> bool:
        """Take the step that is all there is in a request, without making columns of it. Returns whether it was an
        ordinary one; if not, nothing has happened."""
        copy = self._connection.bindings.get(handle)
        if copy is None or copy.next_index != index:
            return False
        environment, seat = copy.environment, copy.seat
        try:
            action = seat.decode(payload)
        except Exception:  # the long way says what is wrong with it
            return False
        now, watch = time.perf_counter, self._watch
        stamps = array("d", (now(),))
        self._engine.stamps = stamps
        watch[LIMIT] = environment.step_limit
        watch[BEGAN] = stamps[0]
        result: Any = None
        error: BaseException | None = None
        try:
            result = copy.play(action)
            stamps.append(now())
        except BaseException as raised_here:  # a StepOverrun, or whatever the author's code raises
            error = raised_here
        finally:
            watch[BEGAN] = watch[LIMIT] = 0.0
        if error is not None:
            self._failed(copy, handle, index, payload, error)
            return True
        environment.observed.step_times.note(stamps, 1, 1, arrived)
        environment.step_cost += 0.2 * (stamps[1] - stamps[0] - environment.step_cost)
        environment.observed.action_bytes += len(payload)
        try:
            row: Row = seat.row_of(result)
        except Refusal as refusal:
            self._settle_singly(copy, handle, index, payload, refusal)
            return True
        if environment.takes_tools or size_of(row) >= self._small_bytes:
            self._settle_singly(copy, handle, index, payload, row)
            return True
        copy.settle(index, payload, row)
        copy.return_ += row[1]
        self._connection.outbox.add(handle, index, OUTCOME, row)
        # It is on its way: what is only counted from here on cannot harm it.
        environment.observed.observation_bytes += len(row[0])
        self._engine.traffic.note_command(STEP)
        if row[2] & ENDED:
            note_ended(copy)
        return True

    def _row_by_row(self, batch: Batch) -> None:
        command = self._connection.command
        for handle, index, payload in zip(batch.handles, batch.indices, batch.payloads, strict=True):
            command(STEP, handle, index, payload, 0)

    def _step(self, environment: Hosted, batch: Batch, arrived: float) -> None:
        """Step many episodes of one environment."""
        try:
            actions = environment.read_actions(batch.payloads)
        except Exception:  # some action is wrong: row by row says which, and harms nobody else
            self._row_by_row(batch)
            return
        results: list[Any] = []
        now = time.perf_counter
        stamps = array("d", (now(),))
        took, note = results.extend, stamps.append
        stepping = map(call, [copy.play for copy in batch.copies], actions)
        stride = stride_of(environment.step_cost)
        error: BaseException | None = None
        watch = self._watch
        self._engine.stamps = stamps
        watch[LIMIT] = environment.step_limit
        watch[BEGAN] = stamps[0]
        try:
            for _ in range(0, len(batch.copies), stride):
                took(islice(stepping, stride))  # what came before an error is kept
                note(now())
        except BaseException as raised_here:  # a StepOverrun, or whatever the author's code raises
            error = raised_here
        finally:
            watch[BEGAN] = watch[LIMIT] = 0.0
        done = len(results)
        if done:
            timed = (len(stamps) - 1) * stride
            if timed < done:  # those before the error in its group
                note(stamps[-1] + (done - timed) * environment.step_cost)
            environment.observed.step_times.note(stamps, stride, done, arrived)
            environment.step_cost += 0.2 * ((stamps[-1] - stamps[0]) / done - environment.step_cost)
            self._settle(environment, batch if error is None else batch.part(0, done), results)
        if error is not None and done < len(batch.copies):  # or the watchdog was late, and all are done
            copies, handles, indices, payloads = batch
            self._failed(copies[done], handles[done], indices[done], payloads[done], error)
            if done + 1 < len(batch.copies):
                self._step(environment, batch.part(done + 1, len(batch.copies)), arrived)

    def _settle(self, environment: Hosted, batch: Batch, results: list[Any]) -> None:
        """Keep and send the outcomes."""
        try:
            outcomes: OutcomeColumns = environment.write_outcomes(results)
        except Exception:  # some result is no outcome: one by one says which
            self._settle_one_by_one(batch, results)
            return
        observed = environment.observed
        size = sum(map(len, outcomes[0]))
        observed.action_bytes += sum(map(len, batch.payloads))
        carried = size + sum(map(len, outcomes[4])) if any(outcomes[4]) else size
        if carried >= self._small_bytes and self._has_large(outcomes):
            for copy, handle, index, payload, row in zip(*batch, zip(*outcomes, strict=True), strict=True):
                self._settle_singly(copy, handle, index, payload, row)
            return
        record = (batch.payloads, outcomes)
        rewards = outcomes[1]
        for copy, position, reward in zip(batch.copies, range(len(rewards)), rewards, strict=True):
            copy.record = record
            copy.position = position
            copy.next_index += 1
            copy.return_ += reward
        ended = list(compress(batch.copies, outcomes[2])) if any(outcomes[2]) else ()
        for copy in ended:
            copy.close_to_steps()
        self._connection.outbox.extend(batch.handles, batch.indices, outcomes, carried)
        # They are on their way: what is only counted from here on cannot harm them.
        observed.observation_bytes += size
        self._engine.traffic.note_command(STEP, count=len(batch.copies))
        for copy in ended:
            note_ended(copy)
        if environment.takes_tools:
            note_tool_calls(observed, zip(batch.payloads, outcomes[4], strict=True))

    def _has_large(self, outcomes: OutcomeColumns) -> bool:
        """Whether one of these takes the long way for its size: many small ones may be as much together."""
        largest: int = max(map(add, map(len, outcomes[0]), map(len, outcomes[4])))
        return largest >= self._kept_bytes

    def _settle_one_by_one(self, batch: Batch, results: list[Any]) -> None:
        for copy, handle, index, payload, result in zip(*batch, results, strict=True):
            try:
                row: Row | Refusal = copy.seat.row_of(result)
            except Refusal as refusal:
                row = refusal
            self._settle_singly(copy, handle, index, payload, row)

    def _settle_singly(
        self, copy: EpisodeCopy, handle: int, index: int, action: bytes, row: Row | Refusal
    ) -> None:
        """Settle a step as one that was taken by itself."""
        copy.close_to_steps()
        running = copy.running = RunningStep(index, action, None)
        running.waiters = [(self._connection, handle, index)]
        self._engine.settled(copy, running, STEP, row, None)

    def _failed(
        self, copy: EpisodeCopy, handle: int, index: int, action: bytes, error: BaseException
    ) -> None:
        """A step raised."""
        overrun = isinstance(error, StepOverrun)
        refusal = overran(copy.environment, STEP) if overrun else raised("step", error)
        self._engine.refused_inline(copy, index, action, refusal)
        self._connection.reply(handle, index, pb.EVENT_KIND_FAILURE, refusal)
