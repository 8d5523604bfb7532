"""Which episodes live on a host: finding, making, closing and losing their copies."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh.versions import newest
from envmesh_host.contracts import Rights, Sink, Tap, Traces
from envmesh_host.copy import EpisodeCopy, RunningStep, judge_epoch
from envmesh_host.counting import named, note_failure, note_over
from envmesh_host.drains import Drains
from envmesh_host.hosted import Hosted
from envmesh_host.isolation.runner import Job
from envmesh_host.observed import Traffic
from envmesh_host.refusals import defective, stale_copy, unknown_episode
from envmesh_host.served import Row
from envmesh_host.slots import Holding, SlotTable
from envmesh_host.testimony import BEGAN, LIMIT, SEEN, Watch

__all__ = ["Roster"]

log = logging.getLogger("envmesh.host")


class Roster:
    """All episodes of a host, and the slots they are in."""

    def __init__(
        self,
        hosted: Sequence[Hosted],
        slots: SlotTable,
        rights: Rights,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_value_bytes: int = 64 << 20,
        watch: Watch | None = None,
    ):
        self.hosted = {environment.key: environment for environment in hosted}
        self.slots = slots
        self.rights = rights
        self.clock = clock
        self.max_value_bytes = max_value_bytes
        self.watch: Watch = [0.0] * 4 if watch is None else watch
        """What runs in the loop's thread; ``testimony`` says what the numbers are."""
        self.stamps: Sequence[float] = (0.0,)
        """When the steps of the batch that runs, or ran last, began and ended."""
        self.episodes: dict[bytes, EpisodeCopy] = {}
        self.taps: dict[bytes, Tap] = {}
        self.traces: Traces | None = None
        self.draining = False
        self.draining_since = 0.0
        self.drain_until: float | None = None
        """When those who are left are aborted; None: never."""
        self.drains = Drains()
        self.empty_since = 0.0
        """When the last episode left."""
        self._emptied = asyncio.Event()
        self.on_slot_freed: Callable[[], None] = lambda: None
        self.on_slot_taken: Callable[[], None] = lambda: None
        self.counts: dict[str, int] = {"fenced": 0, "diverged": 0}
        self.traffic = Traffic()

    def take_traffic(self) -> Traffic:
        """What was observed since the last call."""
        taken, self.traffic = self.traffic, Traffic()
        return taken

    async def emptied(self) -> None:
        """Wait until there is no episode."""
        while self.episodes:
            self._emptied.clear()
            await self._emptied.wait()

    def running_inline(self) -> tuple[float, float]:
        """Since when (``time.perf_counter``) the reset or step that runs in the loop's thread does so, and how long it
        may, in seconds; 0 where none runs. For other threads, which keep the witness informed by asking."""
        watch = self.watch
        began = watch[BEGAN] and max(watch[BEGAN], self.stamps[-1])
        watch[SEEN] = began
        limit = watch[LIMIT] or max(
            (max(h.step_limit, h.reset_limit) for h in self.hosted.values() if h.served is not None),
            default=math.inf,
        )
        return began, limit

    # ---- looking things up

    def environment(self, name: str) -> Hosted:
        """The environment of this ``name`` or ``name@version``; a bare name means the newest version.

        Raises:
            Refusal: ENVIRONMENT_UNKNOWN.
        """
        found = self.hosted.get(name)
        if found is None:
            key = newest(key for key, h in self.hosted.items() if name in (h.info.name, h.info.target))
            found = self.hosted.get(key or "")
        if found is None:
            known = ", ".join(sorted(self.hosted)) or "none"
            raise Refusal(
                f"no environment {name!r} is served here (served: {known})", reason="ENVIRONMENT_UNKNOWN"
            )
        return found

    def episode(self, episode_id: bytes, epoch: int, client_id: bytes, tenant: str) -> EpisodeCopy:
        """The live copy that a unary command names.

        Raises:
            Refusal: EPISODE_UNKNOWN, EPOCH_STALE, NOT_YOURS.
        """
        copy = self.episodes.get(episode_id)
        if copy is None or copy.tenant != tenant:
            raise unknown_episode()
        judge_epoch(copy, epoch, client_id or copy.client_id)
        if epoch > copy.epoch:
            self._fence(copy, epoch)
            raise unknown_episode()
        return copy

    def close(self, copy: EpisodeCopy, refusal: Refusal | None = None, *, superseded: bool = False) -> None:
        """End a copy and free its slot; whoever waits for it hears ``refusal`` (CANCELLED by default). ``superseded``:
        its episode goes on in a newer copy."""
        self.episodes.pop(copy.episode_id, None)
        now = self.clock()
        if not self.episodes:
            self.empty_since = now
            self._emptied.set()
        if copy.connection is not None:
            copy.connection.unbind(copy)
        environment = copy.environment
        note_over(copy, now, superseded=superseded)
        if copy.running is not None:
            reason = refusal or Refusal("the episode was closed", reason="CANCELLED")
            for sink, handle, index in copy.running.dismissed():
                sink.reply(handle, index, pb.EVENT_KIND_FAILURE, reason)
            copy.running = None  # what its runner says of it yet is not for this copy, which is no more
        copy.close_to_steps()
        if environment.served is not None:
            self._retire(copy)
        elif copy.seat is not None:
            environment.runner.submit(
                Job(pb.COMMAND_KIND_CLOSE, copy.seat, 0, b"", environment.reset_limit, _closed(copy))
            )
        if copy.trace is not None:
            copy.trace.end(copy, refusal)
            copy.trace = None
        self.slots.leave(copy.holding, copy.episode_id, now)
        if self.draining and copy.holding.idle:
            self.slots.give_back(copy.holding, 0)
        self.on_slot_freed()

    def abort(self, copy: EpisodeCopy, refusal: Refusal) -> None:
        """End an episode that goes on no more; its copy stays until closed, to answer with the refusal. Where the
        episode was over before, it is not counted again."""
        waiters = copy.running.dismissed() if copy.running is not None else []
        over = copy.ended
        copy.running = None
        copy.row = refusal
        copy.close_to_steps()
        if not over:
            note_failure(copy, refusal)
        for sink, handle, index in waiters:
            sink.reply(handle, index, pb.EVENT_KIND_FAILURE, refusal)

    def defect(self, copy: EpisodeCopy, running: RunningStep, error: Exception) -> None:
        """A defect of ours where the end of a command was taken note of: it ends that episode, and nothing else.
        Whoever still waits for the command, or behind it, hears so."""
        log.error("a defect at the end of %s of an episode of %s", running, copy.environment.key, exc_info=error,
                  extra=named(copy))  # fmt: skip
        refusal = defective(error)
        waiters = running.dismissed()
        if self.episodes.get(copy.episode_id) is copy and not copy.failed:
            self.abort(copy, refusal)
        for sink, handle, index in waiters:
            sink.reply(handle, index, pb.EVENT_KIND_FAILURE, refusal)

    def _older_copy(self, episode_id: bytes, epoch: int, sink: Sink) -> EpisodeCopy | None:
        copy = self._own_copy(episode_id, epoch, sink)
        if copy is None or epoch == copy.epoch:
            return copy
        self._fence(copy, epoch)
        return None

    def _own_copy(
        self, episode_id: bytes, epoch: int, sink: Sink, *, proven: bool = True
    ) -> EpisodeCopy | None:
        """The copy of this episode, if there is one. To whom has nothing to prove that it is theirs, another tenant's
        is as if there were none."""
        copy = self.episodes.get(episode_id)
        if copy is None:
            return None
        if copy.tenant != sink.tenant:
            if not proven:
                return None
            raise Refusal("this episode id belongs to another tenant", reason="NOT_YOURS")
        judge_epoch(copy, epoch, sink.client_id)
        return copy

    def _fence(self, copy: EpisodeCopy, epoch: int) -> None:
        """A newer epoch has been seen: the older copy goes."""
        self.counts["fenced"] += 1
        self._let_go(copy, epoch)
        self.close(copy, stale_copy(), superseded=True)

    def _let_go(self, copy: EpisodeCopy, epoch: int) -> None:
        """The connection that has the copy gives it up; it is told so where the new epoch is another owner's."""
        if copy.connection is None:
            return
        if copy.epoch >> 32 != epoch >> 32:
            copy.connection.taken_over(copy)
        else:
            copy.connection.unbind(copy)

    def _new_copy(
        self,
        request: pb.ResetRequest | pb.ResumeRequest,
        holding: Holding,
        sink: Sink,
        *,
        apart: bool = False,
    ) -> EpisodeCopy:
        episode_id, epoch = request.episode_id, request.epoch
        environment = self.hosted[holding.environment]
        self.slots.take(holding, episode_id)
        copy = EpisodeCopy(episode_id, epoch, sink.client_id, sink.tenant, environment, holding, self.clock())
        if environment.served is None:
            copy.seat = environment.runner.seat(apart=apart)  # type: ignore[union-attr]
        self.episodes[episode_id] = copy
        environment.begun += 1
        if request.traceparent and self.traces is not None:
            self.traces.begin(copy, request.traceparent)
        return copy

    def copies_lost(self, seats: Sequence[Any], refusal: Refusal) -> None:
        """A worker process died under these seats, by no fault of their episodes."""
        gone = set(map(id, seats))
        self.fall([copy for copy in self.episodes.values() if id(copy.seat) in gone], refusal)

    def fall(self, copies: Sequence[EpisodeCopy], refusal: Refusal) -> None:
        """These copies go on no more: whoever waits for one of them hears it as the answer, the others as a notice."""
        by_connection: dict[Any, list[EpisodeCopy]] = {}
        for copy in copies:
            waited_for = copy.running is not None and copy.running.waiters
            if copy.connection is not None and not waited_for:
                by_connection.setdefault(copy.connection, []).append(copy)
            self.abort(copy, refusal)
        for connection, fallen in by_connection.items():
            connection.notify(pb.NOTICE_KIND_COPIES_LOST, fallen, refusal)

    def _retire(self, copy: EpisodeCopy) -> None:
        player = copy.seat
        if player is None:
            return
        environment = copy.environment
        if environment.reuse and not copy.failed and len(environment.players) < self.slots.slots:
            environment.players.append(player)
            return
        try:
            player.close()
        except Refusal as refusal:
            log.warning("closing an episode of %s: %s", environment.key, refusal, extra=named(copy))


def _closed(copy: EpisodeCopy) -> Callable[[Job, Row | Refusal], None]:
    """Who hears that a copy's environment has closed."""

    def closed(job: Job, result: Row | Refusal) -> None:
        if isinstance(result, Refusal) and result.reason != "CANCELLED":
            log.warning("closing an episode of %s: %s", copy.environment.key, result, extra=named(copy))

    return closed
