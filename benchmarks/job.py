"""The one job that every peer does: episodes of an echo environment, each observation verified.

An action is 50 bytes; the observation is 100 bytes made of it; an episode has 32 steps. This module imports only the
standard library, for it runs in the virtual environment of every peer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

STEPS = 32
ACTION_SIZE = 50
FIRST_OBSERVATION = b"." * 100
ACTIONS = [f"{number:04d}".ljust(ACTION_SIZE, "-").encode() for number in range(64)]

SAMPLED_EVERY = 64
"""Of so many episodes, one measures how long its steps take; a clock read in each would be measured too."""

Content = TypeVar("Content", bytes, str)


def observation_of(action: Content) -> Content:
    """The 100 bytes (or characters) that answer 50 of action."""
    return action + action[::-1]


class Echo:
    """The environment: it answers an action with ``observation_of(action)``, 32 times, as Gymnasium has it."""

    __slots__ = ("left",)

    def reset(self) -> tuple[bytes, dict[str, Any]]:
        """Begin an episode."""
        self.left = STEPS
        return FIRST_OBSERVATION, {}

    def step(self, action: bytes) -> tuple[bytes, float, bool, bool, dict[str, Any]]:
        """Answer an action; the reward is its first byte."""
        self.left -= 1
        return action + action[::-1], float(action[0]), self.left == 0, False, {}


class EchoText:
    """The same for peers whose values are JSON."""

    __slots__ = ("left",)

    def reset(self) -> tuple[str, dict[str, Any]]:
        """Begin an episode."""
        self.left = STEPS
        return FIRST_OBSERVATION.decode(), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer an action; the reward is its first character's number."""
        self.left -= 1
        return action + action[::-1], float(ord(action[0])), self.left == 0, False, {}


class WrongObservation(AssertionError):
    """An observation was not the one that its action calls for."""


def verify(observed: object, expected: object) -> None:
    """Compare what was observed with what must be. Raises: WrongObservation."""
    if observed != expected:
        raise WrongObservation(f"expected {expected!r:.120}, observed {observed!r:.120}")


@dataclass(slots=True)
class Tally:
    """What a round of play counts as it goes; who plays looks at ``stopped`` before it sends the next action."""

    steps: int = 0
    latencies: list[float] = field(default_factory=list)
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """A round of play: steps, the seconds they took, and sampled seconds a step."""

    steps: int
    seconds: float
    latencies: Sequence[float]


Play = Callable[[Tally], Coroutine[Any, Any, None]]
"""Plays until the tally is stopped, then returns when nothing is outstanding. Called again for each round."""


async def measure(play: Play, concurrency: int, warm_up: float, seconds: float) -> Measurement:
    """Play for ``warm_up`` seconds that do not count, and for ``seconds`` that do.

    Where an episode makes fewer than ten steps in that time, answers come in waves that a window would cut; then the
    round counts from its begin to its last answer, of what was under way at the end too.
    """
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        begun = time.perf_counter()
        playing = group.create_task(play(tally), name="play")
        await asyncio.wait([playing], timeout=warm_up)
        warm, before, sampled = time.perf_counter(), tally.steps, len(tally.latencies)
        await asyncio.wait([playing], timeout=seconds)
        ended, after = time.perf_counter(), tally.steps
        tally.stopped = True
    if after - before >= 10 * concurrency:
        return Measurement(after - before, ended - warm, tally.latencies[sampled:])
    return Measurement(tally.steps, time.perf_counter() - begun, tally.latencies)


class Session(Protocol[Content]):
    """A client's place on a peer's server, for one episode after another."""

    async def reset(self) -> Content:
        """Begin an episode and return its first observation."""
        ...

    async def step(self, action: Content) -> tuple[Content, bool]:
        """Act, and return the observation and whether the episode has ended."""
        ...


class Player(Generic[Content]):
    """Plays the episodes of one session, and between two rounds of play waits where it was.

    Its very first episode is left early, after another number of steps for each player, so that from then on the
    players' resets are spread evenly over time, as they are in a long run.
    """

    def __init__(self, session: Session[Content], number: int, first: Content, actions: Sequence[Content]):
        self.session: Session[Content] = session
        self.sampled = number % SAMPLED_EVERY == 0
        self.first: Content = first
        self.actions: Sequence[Content] = actions
        self.turn = number
        self.leave_after = 1 + number % STEPS

    async def begin(self) -> None:
        """Reset, and verify the observation."""
        verify(await self.session.reset(), self.first)

    async def play(self, tally: Tally) -> None:
        """Step, and begin again whenever an episode has ended."""
        while not tally.stopped:
            self.turn += 1
            action = self.actions[self.turn % len(self.actions)]
            begun = time.perf_counter() if self.sampled else 0.0
            observation, ended = await self.session.step(action)
            if self.sampled:
                tally.latencies.append(time.perf_counter() - begun)
            verify(observation, observation_of(action))
            tally.steps += 1
            self.leave_after -= 1
            if ended or not self.leave_after:
                self.leave_after = STEPS
                await self.begin()


@asynccontextmanager
async def playing(sessions: Iterable[Session[bytes]]) -> AsyncIterator[Play]:
    """Play on sessions whose values are bytes, a task each."""
    players = [Player(session, number, FIRST_OBSERVATION, ACTIONS) for number, session in enumerate(sessions)]
    yield await _begun(players)


@asynccontextmanager
async def playing_text(sessions: Iterable[Session[str]]) -> AsyncIterator[Play]:
    """Play on sessions whose values are text, a task each."""
    actions = [action.decode() for action in ACTIONS]
    players = [
        Player(session, number, FIRST_OBSERVATION.decode(), actions)
        for number, session in enumerate(sessions)
    ]
    yield await _begun(players)


async def _begun(players: Sequence[Player[Any]]) -> Play:
    await gather(player.begin() for player in players)

    async def play(tally: Tally) -> None:
        await gather(player.play(tally) for player in players)

    return play


async def gather(coroutines: Iterable[Any]) -> None:
    """Run all of them, a task each; the first failure ends all."""
    async with asyncio.TaskGroup() as group:
        for coroutine in coroutines:
            group.create_task(coroutine, name="session")
