"""The journals of many episodes, kept as whole frames (pure).

Every step of a vector belongs into its episode's journal, and hardly ever does anybody want to read one. So what was
sent and what came back is kept as it travelled, a column at a time, and is sorted into episodes only when one of them
must be rebuilt, or when the oldest frames hold little but episodes that are over.
"""

from __future__ import annotations

from array import array as flat_array
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TypeAlias

import numpy as np

from envmesh.journal import Journal
from envmesh.tensors import Array
from envmesh.v1 import environment_pb2 as pb

__all__ = ["VectorJournal"]

_Sent: TypeAlias = tuple[Array, list[bytes], None]
_Received: TypeAlias = tuple[Array, None, "flat_array[int]"]

ROWS_AN_EPISODE = 64
LEAST_ROWS = 1 << 14
PRUNE_EVERY = 64
NEVER = np.iinfo(np.int64).max


class _Unpacked:
    """An episode's journal so far, and the action whose outcome is to come."""

    __slots__ = ("begun", "journal", "pending")

    def __init__(self) -> None:
        self.journal = Journal()
        self.begun = False
        self.pending = b""


class VectorJournal:
    """The journals of ``count`` episodes, numbered from 0. ``reset_entry`` says how the present episode of a number
    began."""

    def __init__(self, count: int, reset_entry: Callable[[int], pb.ResetEntry]):
        self._log: deque[_Sent | _Received] = deque()
        self._head = 0
        self._rows = 0
        self._limit = max(LEAST_ROWS, ROWS_AN_EPISODE * count)
        self._since = np.full(count, NEVER, np.int64)
        self._reset_entry = reset_entry
        self._unpacked: dict[int, _Unpacked] = {}
        self._candidates: dict[int, pb.SealedCheckpoint] = {}
        self._until_prune = PRUNE_EVERY

    def __len__(self) -> int:
        """How many rows are kept as frames."""
        return self._rows

    def begin(self, numbers: Array) -> None:
        """These episodes begin anew: what came before is not needed."""
        self._since[numbers] = self._head + len(self._log)
        if self._unpacked:
            for number in numbers.tolist():
                self._unpacked.pop(number, None)
                self._candidates.pop(number, None)

    def holds(self, number: int) -> bool:
        """Whether there is a journal of the episode, and it has not become too long."""
        return bool(self._since[number] != NEVER) and not self.journal(number)[0].overflowed

    def checkpoint(self, number: int, sealed: pb.SealedCheckpoint) -> None:
        """The state of an episode at a step is known: its journal restarts there, once every outcome up to it is
        held."""
        if self._since[number] == NEVER:
            return
        journal = self.journal(number)[0]
        if not self._unpacked[number].begun:
            if sealed.index == 0:  # any other is of the episode before
                self._candidates[number] = sealed
        elif sealed.index > journal.index:
            self._candidates[number] = sealed
        else:
            journal.checkpoint(sealed)

    def copy_lost(self, number: int) -> None:
        """What the lost copy of an episode had saved is of its own outcomes."""
        self._candidates.pop(number, None)

    def forget(self, number: int) -> None:
        """Episode ``number`` is over for good."""
        self._since[number] = NEVER
        self._candidates.pop(number, None)
        self._unpacked.pop(number, None)

    def sent(self, numbers: Array, actions: list[bytes]) -> None:
        """These episodes are being stepped with these actions."""
        self._log.append((numbers, actions, None))
        self._rows += len(actions)

    def received(self, numbers: Array, digests: list[int]) -> None:
        """These outcomes of resets and steps were accepted."""
        self._log.append((numbers, None, flat_array("Q", digests)))
        self._rows += len(digests)
        for number in self._candidates.keys() & set(numbers.tolist()) if self._candidates else ():
            self.checkpoint(number, self._candidates.pop(number))
        self._until_prune -= 1
        if self._until_prune <= 0:
            self._until_prune = PRUNE_EVERY
            self.prune()

    def prune(self) -> None:
        """Drop frames that hold nothing but episodes that are over; unpack the oldest beyond the bound."""
        oldest = int(self._since.min())
        log = self._log
        while log and self._head < oldest:
            self._rows -= len(log.popleft()[0])
            self._head += 1
        while log and self._rows > self._limit:
            frame = log.popleft()
            for row in np.flatnonzero(self._since[frame[0]] <= self._head).tolist():
                number = int(frame[0][row])
                state = self._unpacked.get(number)
                if state is None:
                    state = self._unpacked[number] = _Unpacked()
                self._unpack(number, state, frame, row)
            self._rows -= len(frame[0])
            self._head += 1

    def journal(self, number: int) -> tuple[Journal, bytes]:
        """The journal of one episode, and the action (or nothing) that was sent since its last outcome. It is sorted
        out of the frames once: to ask again costs no more than what came since.

        Raises:
            KeyError: the episode has not begun.
        """
        since = int(self._since[number])
        if since == NEVER:
            raise KeyError(f"episode {number} has not begun")
        state = self._unpacked.setdefault(number, _Unpacked())
        for frame in islice(self._log, max(0, since - self._head), None):
            for row in np.flatnonzero(frame[0] == number).tolist():
                self._unpack(number, state, frame, row)
        self._since[number] = self._head + len(self._log)
        return state.journal, state.pending

    def _unpack(self, number: int, state: _Unpacked, frame: _Sent | _Received, row: int) -> None:
        _, actions, digests = frame
        if actions is not None:
            state.pending = actions[row]
        elif digests is not None:
            if state.begun:
                state.journal.act(state.pending, digests[row])
                state.pending = b""
                return
            state.journal.begin(self._reset_entry(number), digests[row])
            state.begun = True
