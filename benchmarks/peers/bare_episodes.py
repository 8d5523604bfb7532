"""The episodes of the bare stream's client, in the two forms that need no task."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import ClassVar, Protocol

from benchmarks.job import (
    ACTIONS,
    FIRST_OBSERVATION,
    SAMPLED_EVERY,
    STEPS,
    WrongObservation,
    observation_of,
    verify,
)

RESET = b""

Loop = Generator[bytes, tuple[bytes, bool], None]
"""An episode after another: yields what to send, and is sent the observation and whether the episode has ended."""


class Episodes(Protocol):
    """All episodes of a client. Each of them begins by sending RESET."""

    latencies: list[float]
    """Where sampled times go, in seconds."""

    def resume(self, handles: list[int], observations: list[bytes], ends: Sequence[bool]) -> list[bytes]:
        """What each of these sends next."""
        ...


class Resumed:
    """A generator an episode."""

    def __init__(self, concurrency: int) -> None:
        self.latencies: list[float] = []
        loops = [play(number) for number in range(concurrency)]
        loops[::SAMPLED_EVERY] = [self._timed(loop) for loop in loops[::SAMPLED_EVERY]]
        for loop in loops:
            next(loop)
        self.sends = [loop.send for loop in loops]

    def resume(self, handles: list[int], observations: list[bytes], ends: Sequence[bool]) -> list[bytes]:
        """Resume one after the other."""
        sends = self.sends
        return [
            sends[handle](outcome)
            for handle, outcome in zip(handles, zip(observations, ends, strict=True), strict=True)
        ]

    def _timed(self, loop: Loop) -> Loop:
        action = next(loop)
        while True:
            begun = time.perf_counter()
            outcome = yield action
            self.latencies.append(time.perf_counter() - begun)
            action = loop.send(outcome)


def play(number: int) -> Loop:
    """Play episodes for ever."""
    turn = number
    while True:
        observation, ended = yield RESET
        verify(observation, FIRST_OBSERVATION)
        while not ended:
            turn += 1
            action = ACTIONS[turn % len(ACTIONS)]
            observation, ended = yield action
            if observation != action + action[::-1]:
                raise WrongObservation(f"{observation!r} after {action!r}")


class Vectorised:
    """One loop for all: each episode is a position in the same script, and frames are dealt with as lists."""

    script: ClassVar = [RESET, *ACTIONS[:STEPS]]
    expected: ClassVar = [FIRST_OBSERVATION, *map(observation_of, ACTIONS[:STEPS])]

    def __init__(self, concurrency: int) -> None:
        self.latencies: list[float] = []
        self.positions = [0] * concurrency

    def resume(self, handles: list[int], observations: list[bytes], ends: Sequence[bool]) -> list[bytes]:
        """Advance all of them by one."""
        script, expected, positions = self.script, self.expected, self.positions
        now = [positions[handle] for handle in handles]
        verify(observations, [expected[position] for position in now])
        then = [0 if ended else position + 1 for position, ended in zip(now, ends, strict=True)]
        for handle, position in zip(handles, then, strict=True):
            positions[handle] = position
        return [script[position] for position in then]
