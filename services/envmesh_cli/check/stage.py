"""One instance of an environment, played as a host plays it, and seen as nobody but a judge looks at it."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envmesh import spaces, values
from envmesh.digest import outcome_digest
from envmesh.env import Declaration, Definition, Isolation, space_of
from envmesh_host.asynchronous import is_asynchronous
from envmesh_host.isolation.global_random import GlobalRandom
from envmesh_host.own_digest import has_own_digest

__all__ = [
    "GENERATORS",
    "ActionRefused",
    "EnvironmentBroke",
    "Seen",
    "Stage",
    "at_once",
    "by_author",
    "keeps_generators",
    "of_agent",
    "where_of",
]


ANY = spaces.codec(None)
GENERATORS = GlobalRandom()
"""The global generators, as a worker seeds and swaps them where ``global_random`` is declared."""


class EnvironmentBroke(Exception):
    """The environment raised, tried to end the process, or returned what has no form on the wire."""

    def __init__(self, during: str, kind: str, message: str, where: str = "") -> None:
        super().__init__(f"{during} {kind} {message}" + (f" ({where})" if where else ""))
        self.during = during
        self.kind = kind
        self.message = message
        self.where = where


class ActionRefused(Exception):
    """The declared action space does not contain the action: a host refuses it, and the environment never sees it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An outcome: of several agents, ``observation``, ``rewards`` and ``info`` are keyed by agent."""

    observation: Any
    payload: bytes
    """The canonical bytes of what is digested."""
    reward: float
    rewards: Mapping[str, float]
    terminated: bool
    truncated: bool
    info: Any
    acting: tuple[str, ...]
    seconds: float
    processor_seconds: float
    blocked_seconds: float
    """For how long an event loop could do nothing else."""

    @property
    def done(self) -> bool:
        """Whether the episode ended."""
        return self.terminated or self.truncated

    @property
    def digest(self) -> int:
        """The outcome's digest. Of a reward that is not finite, too, so that it can be compared."""
        return outcome_digest(self.payload, self.reward, self.terminated, self.truncated)


class Stage:
    """An instance being played. ``reset`` and ``step`` raise ``EnvironmentBroke``.

    Where ``global_random`` is declared, the global generators are seeded for it as a worker seeds them: before it is
    made, and again before its reset.
    """

    def __init__(self, definition: Definition, seed: int | None = None) -> None:
        self.definition = definition
        self.agents = definition.declaration.agents
        self.swaps = keeps_generators(definition.declaration)
        self._seed_generators(seed)
        before = time.perf_counter()
        self.instance = by_author("making it", definition.factory)
        self.made_seconds = time.perf_counter() - before
        for method in ("reset", "step"):
            if not callable(getattr(self.instance, method, None)):
                raise EnvironmentBroke("making it", "returned", f"something without {method}()")
        self.asynchronous = is_asynchronous(self.instance)
        self.own_digest = has_own_digest(self.instance)
        declared = definition.declaration
        self.observation_space = space_of(declared.observation_space, self.instance, "observation_space")
        self.action_space = space_of(declared.action_space, self.instance, "action_space")
        self.seeded = declared.seeded if declared.seeded is not None else accepts(self.instance.reset, "seed")
        plain = not self.agents
        self.observations = spaces.codec(self.observation_space if plain else None)
        self.actions = spaces.codec(self.action_space if plain else None, action=True)
        self.agent_observations = {
            agent: spaces.codec(of_agent(self.observation_space, agent)) for agent in self.agents
        }
        self.agent_actions = {
            agent: spaces.codec(of_agent(self.action_space, agent), action=True) for agent in self.agents
        }

    def reset(self, seed: int | None, options: Mapping[str, Any] | None = None) -> Seen:
        """Begin an episode; an environment that does not honour a seed gets none."""
        arguments: dict[str, Any] = {}
        self._seed_generators(seed if self.seeded else None)
        if seed is not None and self.seeded:
            arguments["seed"] = seed
        if options:
            arguments["options"] = dict(options)
        result, *times = self._timed("reset()", lambda: self.instance.reset(**arguments))
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise EnvironmentBroke("reset()", "returned", f"{_shown(result)}, not (observation, info)")
        observation, info = result
        nothing: Any = {} if self.agents else False
        return self._seen("reset()", (observation, {} if self.agents else 0.0, nothing, nothing, info), times)

    def step(self, action: Any) -> Seen:
        """Act once; with several agents ``action`` is keyed by agent.

        Raises:
            ActionRefused: the declared space does not contain it.
        """
        received = self.receive(action)
        result, *times = self._timed("step()", lambda: self.instance.step(received))
        if not isinstance(result, tuple | list) or len(result) != 5:
            wanted = "(observation, reward, terminated, truncated, info)"
            raise EnvironmentBroke("step()", "returned", f"{_shown(result)}, not {wanted}")
        return self._seen("step()", result, times)

    def receive(self, action: Any) -> Any:
        """The action as it arrives: through its encoding, and the check of the declared space."""
        if self.agents:
            return {
                agent: self._received(self.agent_actions.get(agent, ANY), value)
                for agent, value in action.items()
            }
        return self._received(self.actions, action)

    @staticmethod
    def _received(codec: spaces.Codec, action: Any) -> Any:
        try:
            received = codec.decode(codec.encode(action))
            problem = codec.check(received)
        except (TypeError, ValueError) as error:
            raise ActionRefused(str(error)) from error
        if problem is not None:
            raise ActionRefused(problem)
        return received

    def call(self, method: str, *arguments: Any) -> Any:
        """Call an optional method; what it returns is awaited where any method is asynchronous, as a host does."""
        return self.timed_call(method, *arguments)[0]

    def timed_call(self, method: str, *arguments: Any) -> tuple[Any, float]:
        """The same, and for how long an event loop could do nothing else."""
        result, *_, blocked = self._timed(f"{method}()", lambda: getattr(self.instance, method)(*arguments))
        return result, blocked

    def has(self, method: str) -> bool:
        """Whether the environment has an optional method."""
        return callable(getattr(self.instance, method, None))

    def close(self) -> None:
        """Close it, where it can be closed."""
        if self.has("close"):
            self.call("close")

    def _seed_generators(self, seed: int | None) -> None:
        if self.swaps:
            GENERATORS.seed(seed)

    def observation_problem(self, seen: Seen) -> str | None:
        """What is wrong with the observation, held against the declared space."""
        if not self.agents:
            return self.observations.check(seen.observation)
        for agent, observation in seen.observation.items():
            if agent not in self.agents:
                return f"{agent!r} is none of the declared agents {', '.join(self.agents)}"
            problem = self.agent_observations[agent].check(observation)
            if problem is not None:
                return f"{agent}: {problem}"
        return None

    def _seen(self, during: str, result: Any, times: list[float]) -> Seen:
        observation, reward, terminated, truncated, info = result
        try:
            if self.agents:
                return self._seen_of_agents(result, times)
            payload = self._judged(observation, self.observations.encode(observation))
            reward = float(reward)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise EnvironmentBroke(
                during, "returned", f"an outcome without a form on the wire: {error}"
            ) from error
        return Seen(
            observation, payload, reward, {"": reward}, bool(terminated), bool(truncated), info, (), *times
        )

    def _judged(self, observation: Any, payload: bytes) -> bytes:
        """What is digested: the author's ``digest`` of an observation stands for it, as on a host."""
        if not self.own_digest:
            return payload
        return values.encode(by_author("digest()", lambda: self.instance.digest(observation)))

    def _seen_of_agents(self, result: Any, times: list[float]) -> Seen:
        observations, rewards, terminations, truncations, infos = result
        acting = tuple(self.instance.acting)
        rewards = {agent: float(reward) for agent, reward in rewards.items()}
        payload = values.encode(
            {
                "observations": {
                    agent: self.agent_observations.get(agent, ANY).plain(observation)
                    for agent, observation in observations.items()
                },
                "rewards": {agent: reward for agent, reward in rewards.items() if math.isfinite(reward)},
                "terminations": {agent: bool(flag) for agent, flag in terminations.items()},
                "truncations": {agent: bool(flag) for agent, flag in truncations.items()},
                "acting": list(acting),
            }
        )
        truncated = not acting and any(truncations.values()) and not any(terminations.values())
        terminated = not acting and not truncated
        return Seen(
            observations,
            self._judged(observations, payload),
            sum(rewards.values()),
            rewards,
            terminated,
            truncated,
            infos,
            acting,
            *times,
        )

    def _timed(self, during: str, call: Callable[[], Any]) -> tuple[Any, float, float, float]:
        processor, before = time.thread_time(), time.perf_counter()
        if self.asynchronous:
            result, blocked = by_author(during, lambda: _in_loop(call))
        else:
            result = by_author(during, call)
            blocked = time.perf_counter() - before
        return result, time.perf_counter() - before, time.thread_time() - processor, blocked


def by_author(during: str, call: Callable[[], Any]) -> Any:
    """What the author's code returns.

    Raises:
        EnvironmentBroke: it raised, or tried to end the process.
    """
    try:
        return call()
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        raise EnvironmentBroke(during, "called", f"sys.exit({error.code!r})", where_of(error)) from error
    except BaseException as error:
        message = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        raise EnvironmentBroke(during, "raised", message[:300], where_of(error)) from error


def keeps_generators(declaration: Declaration) -> bool:
    """Whether a host seeds the global generators for each episode, and keeps their states apart."""
    return declaration.global_random and declaration.isolation is Isolation.PROCESS


def of_agent(space: Any, agent: str) -> Any:
    """An agent's own space, of a mapping by agent; None where it has none."""
    # ``in`` would ask a gymnasium.spaces.Dict whether the name is one of its values
    return space[agent] if isinstance(space, Mapping) and agent in list(space.keys()) else None


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.name == name or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def where_of(error: BaseException) -> str:
    """The file and line that an exception came from."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")
    ]
    if not frames or frames[-1].filename == __file__:
        return ""
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"


_loops: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0]


def _in_loop(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call in the event loop leads to, and the longest that the loop could not turn meanwhile."""
    loop, watched = _loop(), _watched(call)
    if loop.is_running():  # elsewhere: see at_once
        result, error, longest = asyncio.run_coroutine_threadsafe(watched, loop).result()
    else:
        result, error, longest = loop.run_until_complete(watched)
    if error is not None:
        raise error
    return result, longest


def at_once(calls: Iterable[Callable[[], None]], threads: Executor) -> None:
    """Make calls that play stages, each in a thread: synchronous commands overlap there, asynchronous ones in the
    event loop, as on a host."""
    loop = _loop()

    async def all_of_them() -> None:
        await asyncio.gather(*(loop.run_in_executor(threads, call) for call in calls))

    loop.run_until_complete(all_of_them())


async def _watched(call: Callable[[], Any]) -> tuple[Any, BaseException | None, float]:
    """The result or the exception, which is handed on as a value: a TaskGroup would wrap it, and the loop would end by
    a SystemExit."""
    longest = 0.0

    async def playing() -> tuple[Any, BaseException | None]:
        try:
            result = call()
            return (await result if inspect.isawaitable(result) else result), None
        except BaseException as error:
            return None, error

    async with asyncio.TaskGroup() as group:
        task = group.create_task(playing(), name="the environment's command")
        while not task.done():
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)
    return *task.result(), longest


def _shown(result: Any) -> str:
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    return f"{type(result).__name__} {result!r:.60}"
