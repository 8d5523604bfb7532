"""Checkpoints: taken when they are asked for, and by the host itself of episodes of class STATE.

What is being saved at once is bounded, in number and in bytes, so that a thousand large episodes fill neither this
process nor their client: a save that finds no room waits, or is taken with a later step.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.asides import CHECKPOINT, Asides, answer
from envmesh_host.checkpoint_store import CheckpointStore
from envmesh_host.copy import EpisodeCopy, RunningStep
from envmesh_host.counting import named
from envmesh_host.hosted import Hosted, Waiter
from envmesh_host.kept import Stored, known_from, retold, without_outdated
from envmesh_host.player import outcome_of_row
from envmesh_host.refusals import over, too_large_to_save
from envmesh_host.served import Row, size_of

__all__ = ["Saving", "saves_each_step"]

log = logging.getLogger("envmesh.host")

MOST_AT_ONCE = 16
"""Checkpoints that are being taken, where there is a store for large ones."""

MOST_UNSENT_BYTES = 32 << 20
"""No checkpoint is taken unasked for a client that has so many bytes of large values still to come."""

STRETCH_SECONDS = 0.005

NOT_SAVED = frozenset({"NO_CAPACITY", "UNSUPPORTED"})
"""Reasons for which a checkpoint could not be had, while the episode goes on."""


class Unasked:
    """Whom a checkpoint is told that nobody asked for: the client that has the copy then, if it succeeds."""

    __slots__ = ("_copy",)

    def __init__(self, copy: EpisodeCopy):
        self._copy = copy

    def reply(self, handle: int, index: int, kind: int, result: Row | Refusal) -> None:
        """Tell the client."""
        connection = self._copy.connection
        if connection is not None and not isinstance(result, Refusal):
            connection.reply(self._copy.handle, index, kind, result)


class Released:
    """An outcome that is held back until its checkpoint is there, for steps that could not be replayed."""

    __slots__ = ("_copy", "_row", "_waiters")

    def __init__(self, copy: EpisodeCopy, waiters: list[Waiter], row: Row):
        self._copy = copy
        self._waiters = waiters
        self._row = row

    def reply(self, handle: int, index: int, kind: int, result: Row | Refusal) -> None:
        """Tell both: the checkpoint, then the outcome. Where no checkpoint can be had, the episode goes on without."""
        if isinstance(result, Refusal):
            goes_on = result.reason in NOT_SAVED
            answer(self._waiters, pb.EVENT_KIND_OUTCOME, self._row if goes_on else result)
            return
        connection = self._copy.connection
        others = [waiter for waiter in self._waiters if waiter[0] is not connection]
        its_own = [(at, step) for sink, at, step in self._waiters if sink is connection]
        if not its_own:
            Unasked(self._copy).reply(handle, index, kind, result)
        answer(others, pb.EVENT_KIND_OUTCOME, self._row)
        if its_own:
            connection.reply_saved(its_own, self._row, result)


def in_this_loop(seconds: float, work: Callable[[], None]) -> asyncio.TimerHandle:
    """Do something later, in the running loop."""
    return asyncio.get_running_loop().call_later(seconds, work)


class Saving(Asides):
    """Taking checkpoints, and keeping them."""

    store: CheckpointStore | None = None
    stopwatch: Callable[[], float] = staticmethod(time.perf_counter)
    later: Callable[[float, Callable[[], None]], object] = staticmethod(in_this_loop)

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._in_progress = 0
        self._waiting: deque[tuple[EpisodeCopy, RunningStep]] = deque()
        self._to_save: deque[EpisodeCopy] = deque()
        self._scheduled = self._going_on = False

    def checkpoint(self, copy: EpisodeCopy, waiter: Waiter) -> None:
        """Save an episode. Raises: Refusal UNSUPPORTED, STEP_INDEX while a step runs."""
        if not copy.environment.info.checkpoints:
            raise Refusal(f"{copy.environment.key} has no checkpoint()", reason="UNSUPPORTED")
        running = self._aside(copy, CHECKPOINT, waiter)
        if running is None:
            return
        if self._store_has_room():
            self._begin_saving(copy, running)
        else:
            self._waiting.append((copy, running))

    def use_store(self, store: CheckpointStore) -> None:
        """Keep large checkpoints there."""
        self.store = store
        store.on_room = self.go_on_saving

    # ---- unasked

    def due(self, copy: EpisodeCopy) -> bool:
        """Whether it is time to save an episode: at least every so many steps, with the first step after so many
        seconds, and once where the host drains."""
        steps = copy.index - copy.saved_index
        if steps <= 0:
            return False
        if self.draining and copy.saved_at < self.draining_since:
            return True
        environment, connection = copy.environment, copy.connection
        if steps >= (connection.checkpoint_steps or environment.checkpoint_steps):
            return True
        seconds = connection.checkpoint_seconds or environment.checkpoint_seconds
        return bool(self.clock() - copy.saved_at >= seconds)

    def hold_back(self, copy: EpisodeCopy, waiters: list[Waiter], row: Row) -> bool:
        """After a reset or step: keep its outcome back until the episode is saved, where it could not be replayed.
        Returns whether it is kept back."""
        if copy.environment.info.deterministic:
            return False
        if copy.connection is None:
            copy.saved_index = copy.index - 1
            return False
        self.checkpoint(copy, (Released(copy, waiters, row), copy.handle, copy.index))
        if copy.running is not None:
            copy.running.held = waiters
        return True

    @staticmethod
    def is_unsaved(copy: EpisodeCopy) -> bool:
        """Whether the last outcome could not be replayed and is not saved, for nobody was there when it came."""
        return saves_each_step(copy.environment) and copy.saved_index < copy.index and not copy.failed

    def save_if_due(self, copy: EpisodeCopy) -> None:
        """Save an episode of class STATE when it is time and there is room, and tell its client."""
        if copy.connection is None or copy.running is not None or copy.ended or not self.due(copy):
            return
        if self._room_for(copy):
            self.checkpoint(copy, (Unasked(copy), copy.handle, copy.index))

    def save_all(self) -> None:
        """The host drains: whatever has gone on since its last checkpoint is saved, at once if it is at a step's end
        and there is room."""
        self._to_save = deque(copy for copy in self.episodes.values() if copy.environment.saves)
        self.go_on_saving()

    # ---- room

    def _store_has_room(self) -> bool:
        return self.store is None or (self.store.has_room and self._in_progress < MOST_AT_ONCE)

    def _room_for(self, copy: EpisodeCopy) -> bool:
        if self.store is not None:
            return self._store_has_room() and not self._waiting
        return bool(copy.connection.unsent_bytes < MOST_UNSENT_BYTES)

    def go_on_saving(self) -> None:
        """Begin what has waited for room; a few milliseconds at a time."""
        if self._going_on or not (self._waiting or self._to_save):
            return
        self._going_on = True  # what is saved at once makes room, and says so here
        try:
            self._begin_what_waited()
        finally:
            self._going_on = False
        if (self._waiting or self._to_save) and self._store_has_room() and not self._scheduled:
            self._scheduled = True
            self.later(STRETCH_SECONDS, self._saving_again)

    def _begin_what_waited(self) -> None:
        end = self.stopwatch() + STRETCH_SECONDS
        while self._waiting and self._store_has_room() and self.stopwatch() < end:
            copy, running = self._waiting.popleft()
            if copy.running is running:
                self._begin_saving(copy, running)
        for _ in range(len(self._to_save)):
            if self.stopwatch() > end or not self._store_has_room():
                break
            copy = self._to_save.popleft()
            if self.episodes.get(copy.episode_id) is not copy or copy.connection is None:
                continue
            if not self._room_for(copy):
                self._to_save.append(copy)
            elif copy.running is None:  # where a step runs, its end is the moment
                self.save_if_due(copy)

    def _saving_again(self) -> None:
        self._scheduled = False
        self.go_on_saving()

    # ---- taking one

    def _begin_saving(self, copy: EpisodeCopy, running: RunningStep) -> None:
        copy.saved_index, copy.saved_at = running.index, self.clock()
        self._in_progress += 1
        self._begin_aside(copy, CHECKPOINT, running)

    def _aside_done(
        self, copy: EpisodeCopy, kind: int, running: RunningStep, result: Row | Refusal, seconds: float
    ) -> None:
        if kind != CHECKPOINT:
            super()._aside_done(copy, kind, running, result, seconds)
            return
        self._in_progress -= 1
        if copy.running is running:
            if not isinstance(result, Refusal):
                self._keep(copy, running, result)
            elif result.reason == "MESSAGE_TOO_LARGE":
                self._not_saved(copy, running, too_large_to_save(copy, str(result)))
            else:
                self.traffic.checkpoint_failures += 1
                self._aside_over(copy, kind, running, result)
        self.go_on_saving()

    def _not_saved(self, copy: EpisodeCopy, running: RunningStep, refusal: Refusal) -> None:
        """No checkpoint: the episode goes on, and its journal stays as long as it is."""
        self._note_not_saved(copy, running.index, refusal)
        self._aside_over(copy, CHECKPOINT, running, refusal)

    def _note_not_saved(self, copy: EpisodeCopy, index: int, refusal: Refusal) -> None:
        self.traffic.checkpoint_failures += 1
        copy.saved_index = min(copy.saved_index, index - 1)
        log.warning("an episode of %s is not saved: %s", copy.environment.key, refusal, extra=named(copy))

    def _keep(self, copy: EpisodeCopy, running: RunningStep, row: Row) -> None:
        """Seal a state; a large one goes into the store, and is told once it is safe there. Whoever asked for it waits
        until then, and steps with it; for a checkpoint that nobody asked for no step waits so long."""
        at, store = running.index, self.store
        content = pb.CheckpointContent(
            last=outcome_of_row(at, copy.row),
            environment=copy.environment.key,
            build=copy.environment.info.build,
            return_so_far=None if math.isnan(copy.return_) else copy.return_,
        )
        content.state.ParseFromString(row[0])
        data = content.SerializeToString(deterministic=True)
        sealed = self.rights.seal(copy, data)
        if store is None or len(data) <= store.inline_bytes:
            size, bound = size_of(row_of(sealed)), self._bound(copy)
            if size > bound:
                self._not_saved(copy, running, too_large_to_save(copy, over(size, bound)))
                return
            self.traffic.note_checkpoint("journal", len(data))
            self._tell(copy, running, sealed)
            return
        # A new message, for one whose content is taken out keeps its memory.
        sealed = pb.SealedCheckpoint(index=sealed.index, seal=sealed.seal)
        size, connection, handle = len(data), copy.connection, copy.handle
        asked = any(not isinstance(waiter[0], Unasked) for waiter in running.waiters)

        def stored(reference: str | None) -> None:
            try:
                note_stored(reference)
            except Exception as error:
                self.defect(copy, running, error)

        def note_stored(reference: str | None) -> None:
            current = self.episodes.get(copy.episode_id) is copy and not copy.failed
            waited_for = copy.running is running
            if reference is None:
                refusal = Refusal(
                    "the checkpoint store does not take it; the host's log says why",
                    reason="NO_CAPACITY",
                    retry_after=1.0,
                )
                if waited_for:
                    self._not_saved(copy, running, refusal)
                elif current:
                    self._note_not_saved(copy, at, refusal)
                return
            same_client = connection is not None and (copy.connection, copy.handle) == (connection, handle)
            if not (current and (waited_for or (same_client and not asked))):
                store.delete((reference,))  # nobody will ever hear of it
                return
            self.traffic.note_checkpoint("store", size)
            sealed.reference = reference
            self._note_stored(copy, reference)
            if waited_for:
                self._tell(copy, running, sealed)
            else:
                connection.reply(handle, at, pb.EVENT_KIND_CHECKPOINT, row_of(sealed))

        if not asked:
            running.waiters = []
            self._aside_over(copy, CHECKPOINT, running, EMPTY)
        store.write(store.name(copy.tenant, copy.episode_id, at), data, stored)

    def _tell(self, copy: EpisodeCopy, running: RunningStep, sealed: pb.SealedCheckpoint) -> None:
        """Tell of a checkpoint whoever asked for it, or where those were sent away, for the copy has changed hands, the
        client that has it now."""
        if not running.waiters:
            running.waiters = [(Unasked(copy), copy.handle, running.index)]
        self._aside_over(copy, CHECKPOINT, running, row_of(sealed))

    def _note_stored(self, copy: EpisodeCopy, reference: str) -> None:
        """A checkpoint is in the store, and is told now; what it makes superfluous goes."""
        assert self.store is not None
        stored = (*copy.stored, Stored(reference, known_from(copy.index)))
        gone, copy.stored = without_outdated(stored, copy.index)
        self.store.delete(gone)

    # ---- what is in the store

    def forget_checkpoints(self, copy: EpisodeCopy) -> None:
        """The episode is over: what was saved of it goes. While the host drains it stays for its lifetime: the episode
        may have moved, with a journal that begins at one of these."""
        if copy.stored and self.store is not None and not self.draining:
            self.store.delete([each.reference for each in copy.stored])
        copy.stored = ()

    @staticmethod
    def retell(copy: EpisodeCopy, references: Sequence[str]) -> None:
        """Its client came back, with a journal that names these checkpoints."""
        copy.stored = retold(copy.stored, references, copy.index)

    def adopt_stored(self, copy: EpisodeCopy, references: Sequence[str], base: int) -> None:
        """A copy was rebuilt from stored checkpoints. Those that are its own are now its to delete; with another
        episode's (it is a branch) it has none of its own: it is saved as soon as it stands."""
        store = self.store
        own = [name for name in references if store is not None and store.is_of(name, copy.episode_id)]
        copy.stored = tuple(Stored(name, 0) for name in own)
        copy.saved_index = base
        if len(own) < len(references):
            copy.saved_index, copy.saved_at = base - 1, float("-inf")

    def fetch_checkpoints(
        self, journal: pb.Journal, tenant: str, then: Callable[[Refusal | None], None]
    ) -> bool:
        """Put the contents of stored checkpoints into a journal that only refers to them; ``then`` hears when that is
        done, or why it cannot be. Returns whether there is anything to wait for.

        Raises:
            Refusal: MALFORMED, NOT_YOURS: no reference of ours, or another tenant's.
        """
        store = self.store
        # Only the first entry is looked at: what a client keeps begins at its checkpoint.
        first = journal.entries[0] if journal.entries else pb.JournalEntry()
        if first.WhichOneof("entry") != "checkpoint" or not first.checkpoint.reference:
            return False
        if store is None:
            raise Refusal(
                "the journal's checkpoint is in a store, and this host has none (checkpoint_store)",
                reason="UNSUPPORTED",
            )
        sealed = first.checkpoint
        store.check(sealed.reference, tenant)

        def read(data: bytes | Refusal) -> None:
            if isinstance(data, Refusal):
                then(data)
                return
            sealed.content = data
            then(None)

        store.read(sealed.reference, read)
        return True


EMPTY: Row = (b"", 0.0, 0, 0, b"")


def saves_each_step(environment: Hosted) -> bool:
    """Whether an outcome is told only with its checkpoint, for a step could not be replayed."""
    return environment.saves and not environment.info.deterministic


def row_of(sealed: pb.SealedCheckpoint) -> Row:
    """A checkpoint as the columns of an event."""
    return (sealed.SerializeToString(), 0.0, 0, 0, b"")
