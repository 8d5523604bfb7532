"""Rebuilding synchronous inline episodes without holding anybody up.

A journal of thousands of steps is played again a few milliseconds at a time, in turns with the other journals; between
two stretches the event loop belongs to the episodes that still run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

from envmesh.errors import Refusal
from envmesh_host.batches import STRETCH_SECONDS
from envmesh_host.overrun import StepOverrun
from envmesh_host.refusals import defective
from envmesh_host.served import Row
from envmesh_host.testimony import BEGAN, Watch

__all__ = ["Replays"]

log = logging.getLogger("envmesh.host")

Steps = Iterator[Row | None]


class _Replay:
    """One episode being rebuilt."""

    __slots__ = ("done", "make", "overran", "seconds", "steps", "wanted")

    def __init__(
        self,
        make: Callable[[], Steps],
        done: Callable[[Row | Refusal, float], None],
        wanted: Callable[[], bool],
        overran: Callable[[], Refusal],
    ):
        self.make = make
        self.done = done
        self.wanted = wanted
        self.overran = overran
        self.steps: Steps | None = None
        self.seconds = 0.0


class Replays:
    """The episodes being rebuilt in a host's event loop. ``watch[BEGAN]`` is the watchdog's: when the step began."""

    def __init__(self, watch: Watch):
        self._watch = watch
        self._waiting: deque[_Replay] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self,
        make: Callable[[], Steps],
        done: Callable[[Row | Refusal, float], None],
        wanted: Callable[[], bool],
        overran: Callable[[], Refusal],
    ) -> None:
        """Rebuild an episode, in its turn. ``make`` begins, and each step of what it gives is one of the journal's;
        ``done`` hears the result and its seconds, unless it is not ``wanted`` any more."""
        self._waiting.append(_Replay(make, done, wanted, overran))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._stretch)

    def _stretch(self) -> None:
        """Play a stretch of the journal whose turn it is; short ones are done in one go with the next."""
        try:
            self._play_until_due()
        finally:  # whatever happened to one, the others have their turn
            self._scheduled = bool(self._waiting)
            if self._scheduled:
                asyncio.get_running_loop().call_soon(self._stretch)

    def _play_until_due(self) -> None:
        end = time.perf_counter() + STRETCH_SECONDS
        while self._waiting and time.perf_counter() < end:
            replay = self._waiting.popleft()
            if not replay.wanted():
                continue
            result = self._play(replay, end)
            if result is None:
                self._waiting.append(replay)
            else:
                replay.done(result, replay.seconds)

    def _play(self, replay: _Replay, end: float) -> Row | Refusal | None:
        """Play on until ``end``; the result, None where there is more to do."""
        started = now = time.perf_counter()
        try:
            while True:
                self._watch[BEGAN] = now
                if replay.steps is None:
                    replay.steps = replay.make()
                row = next(replay.steps)
                now = time.perf_counter()
                if row is not None:
                    return row
                if now > end:
                    return None
        except Refusal as refusal:
            return refusal
        except StepOverrun:
            return replay.overran()
        except Exception as error:
            log.error("a defect in a resumption", exc_info=error)
            return defective(error, " in a resumption")
        finally:
            self._watch[BEGAN] = 0.0
            replay.seconds += time.perf_counter() - started
