"""One episode's environment: serialized commands in, serialized outcomes out.

Every isolation plays through this module, in the event loop, in a thread or in a worker process, so an environment
behaves the same wherever it runs.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, ClassVar

from envmesh import values
from envmesh.env import RewardResult
from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.journal_replay import EMPTY_ROW, Replay, outcome_of_row, row_of_outcome
from envmesh_host.overrun import StepOverrun
from envmesh_host.served import Row, Served, reset_outcome
from envmesh_host.shown import raised, said

__all__ = ["EMPTY_ROW", "AsyncPlayer", "Player", "make_player", "outcome_of_row", "row_of_outcome"]


class Player:
    """A synchronous environment being played. Not safe for concurrent use: one command at a time.

    Raises (all methods):
        Refusal: ACTION_INVALID, SEED_UNSUPPORTED, OPTION_UNKNOWN, TASK_UNKNOWN (the episode is unharmed),
            ENVIRONMENT_RAISED, ENVIRONMENT_RETURNED, REWARD_INVALID (it has ended), UNSUPPORTED, REPLAY_DIVERGED.
    """

    __slots__ = ("decode", "instance", "row_of", "served", "step_instance")

    def __init__(self, served: Served):
        self.served = served
        try:
            self.instance = served.definition.factory()
            self.step_instance = self.instance.step
        except StepOverrun:
            raise
        except BaseException as error:
            raise raised("creating the environment", error) from error
        self.decode, self.row_of = served.forms_of(self.instance)

    def reset(self, request: pb.ResetRequest) -> Row:
        """Begin the episode."""
        arguments = reset_arguments(self.served, request)
        try:
            result = self.instance.reset(**arguments)
        except StepOverrun:
            raise
        except BaseException as error:
            raise raised("reset", error) from error
        return self.row_of(reset_outcome(result))

    def step(self, action: bytes) -> Row:
        """Act once."""
        value = self.decode(action)
        try:
            result = self.step_instance(value)
        except StepOverrun:
            raise
        except BaseException as error:
            raise raised("step", error) from error
        return self.row_of(result)

    def reward(self, index: int) -> Row:
        """Grade the episode as it stands: a serialized RewardResponse."""
        grade = _method(self.instance, "reward")
        with _author("reward"):
            result = grade()
        return reward_row(result, index)

    def checkpoint(self) -> Row:
        """The environment's state, a serialized Value."""
        save = _method(self.instance, "checkpoint")
        with _author("checkpoint"):
            state = save()
        return (encode("checkpoint", state), 0.0, 0, 0, b"")

    def restore(self, state: bytes) -> None:
        """Take up the state of a checkpoint."""
        restore = _method(self.instance, "restore")
        value = values.decode(state)
        with _author("restore"):
            restore(value)

    def reseed(self, seed: int) -> None:
        """Change the randomness of the future."""
        reseed = _method(self.instance, "reseed")
        with _author("reseed"):
            reseed(seed)

    def resume(self, request: pb.ResumeRequest) -> Row:
        """Rebuild the episode from its journal: a serialized ResumeResponse beside the last outcome's columns."""
        *_, row = self.resume_by_steps(request)
        assert row is not None
        return row

    def resume_by_steps(self, request: pb.ResumeRequest) -> Iterator[Row | None]:
        """The same, with a pause after each step: None each time, the result at the end."""
        replay = Replay(self.served, request)
        for kind, argument in replay.commands():
            if kind == "reset":
                replay.outcome(self.reset(argument))
            elif kind == "act":
                replay.outcome(self.step(argument))
            elif kind == "reseed":
                self.reseed(argument)
            else:
                self.restore(argument)
            yield None
        yield replay.row()

    def close(self) -> None:
        """Free what the environment holds."""
        close = getattr(self.instance, "close", None)
        if close is not None:
            with _author("close"):
                close()


class AsyncPlayer:
    """An asynchronous environment being played: the methods of ``Player`` as coroutines. Any of the
    environment's own methods may also be a plain function."""

    __slots__ = ("decode", "instance", "row_of", "served")

    def __init__(self, served: Served):
        self.served = served
        with _waiting_author("creating the environment"):
            self.instance = served.definition.factory()
        self.decode, self.row_of = served.forms_of(self.instance)

    async def reset(self, request: pb.ResetRequest) -> Row:
        """Begin the episode."""
        arguments = reset_arguments(self.served, request)
        with _waiting_author("reset"):
            result = await _awaited(self.instance.reset(**arguments))
        return self.row_of(reset_outcome(result))

    async def step(self, action: bytes) -> Row:
        """Act once."""
        value = self.decode(action)
        with _waiting_author("step"):
            result = await _awaited(self.instance.step(value))
        return self.row_of(result)

    async def reward(self, index: int) -> Row:
        """Grade the episode as it stands."""
        grade = _method(self.instance, "reward")
        with _waiting_author("reward"):
            result = await _awaited(grade())
        return reward_row(result, index)

    async def checkpoint(self) -> Row:
        """The environment's state."""
        save = _method(self.instance, "checkpoint")
        with _waiting_author("checkpoint"):
            state = await _awaited(save())
        return (encode("checkpoint", state), 0.0, 0, 0, b"")

    async def restore(self, state: bytes) -> None:
        """Take up the state of a checkpoint."""
        restore = _method(self.instance, "restore")
        value = values.decode(state)
        with _waiting_author("restore"):
            await _awaited(restore(value))

    async def reseed(self, seed: int) -> None:
        """Change the randomness of the future."""
        reseed = _method(self.instance, "reseed")
        with _waiting_author("reseed"):
            await _awaited(reseed(seed))

    async def resume(
        self, request: pb.ResumeRequest, turn: Callable[[], Awaitable[None]] | None = None
    ) -> Row:
        """Rebuild the episode from its journal; after each of its steps ``turn`` may let others go on."""
        replay = Replay(self.served, request)
        for kind, argument in replay.commands():
            if kind == "reset":
                replay.outcome(await self.reset(argument))
            elif kind == "act":
                replay.outcome(await self.step(argument))
            elif kind == "reseed":
                await self.reseed(argument)
            else:
                await self.restore(argument)
            if turn is not None:
                await turn()
        return replay.row()

    async def close(self) -> None:
        """Free what the environment holds."""
        close = getattr(self.instance, "close", None)
        if close is not None:
            with _waiting_author("close"):
                await _awaited(close())


def make_player(served: Served) -> Player | AsyncPlayer:
    """A new instance of the environment, ready to be reset."""
    return AsyncPlayer(served) if served.asynchronous else Player(served)


def reset_arguments(served: Served, request: pb.ResetRequest) -> dict[str, Any]:
    """The keyword arguments of the author's ``reset``; refuses what the environment does not honour."""
    declaration = served.definition.declaration
    arguments: dict[str, Any] = {}
    if request.HasField("seed"):
        if not served.seeded:
            raise Refusal(
                f"{served.definition.key} does not honour a seed; reset it without one",
                reason="SEED_UNSUPPORTED",
            )
        arguments["seed"] = request.seed
    options: dict[str, Any] = {}
    if request.HasField("options"):
        try:
            given = values.from_proto(request.options)
        except ValueError as error:
            raise Refusal(f"the options cannot be decoded: {error}", reason="MALFORMED") from None
        if not isinstance(given, Mapping):
            raise Refusal(f"options must be a map, not {type(given).__name__}", reason="ARGUMENT_INVALID")
        unknown = sorted(set(given) - set(declaration.options))
        if unknown:
            known = ", ".join(declaration.options) or "none; declare them with options=(...)"
            raise Refusal(
                f"{served.definition.key} knows no reset option {', '.join(map(repr, unknown))} (known: {known})",
                reason="OPTION_UNKNOWN",
            )
        options.update(given)
    if request.task:
        options["task"] = served.tasks.find(request.task, request.split)
    if options:
        arguments["options"] = options
    return arguments


def reward_row(result: Any, index: int) -> Row:
    """A grade as a serialized RewardResponse; refuses what is no grade, or not finite."""
    try:
        if isinstance(result, bool | int | float) or hasattr(result, "__float__"):
            result = RewardResult(value=float(result))
        if not isinstance(result, RewardResult):
            raise TypeError(f"not {type(result).__name__}")
        value = float(result.value)
        components = {name: float(part) for name, part in sorted(result.components.items())}
        response = pb.RewardResponse(
            value=value,
            components=[pb.RewardComponent(name=name, value=part) for name, part in components.items()],
            valid=result.valid,
            rationale=result.rationale,
            index=index,
        )
    except Exception as error:  # whatever an author's objects raise when they are looked at
        raise Refusal(
            f"reward() must return a number or RewardResult: {said(error)}", reason="ENVIRONMENT_RETURNED"
        ) from None
    for name, part in (("reward()", value), *components.items()):
        if not math.isfinite(part):
            raise Refusal(f"{name} is {part}; a reward must be finite", reason="REWARD_INVALID")
    return (response.SerializeToString(), value, 0, 0, b"")


def encode(what: str, value: Any) -> bytes:
    """Any value as bytes; refuses what has no form on the wire."""
    try:
        return values.encode(value)
    except Exception as error:  # whatever an author's objects raise when they are looked at
        raise Refusal(f"{what}: {said(error)}", reason="ENVIRONMENT_RETURNED") from None


class _author:  # noqa: N801 - reads as a word at its uses
    """Turns what the author's code raises into a refusal, ``SystemExit`` and what else is no ``Exception`` included; a
    class, for it is cheaper than a generator. Only what is not the author's ``passes``."""

    __slots__ = ("during",)
    passes: ClassVar[tuple[type[BaseException], ...]] = (StepOverrun,)

    def __init__(self, during: str):
        self.during = during

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and not isinstance(error, self.passes):
            raise raised(self.during, error) from error


class _waiting_author(_author):  # noqa: N801 - as above
    """The same around an ``await``, where a cancellation may be ours: whoever cancels knows."""

    __slots__ = ()
    passes = (StepOverrun, asyncio.CancelledError, GeneratorExit)


def _method(instance: Any, name: str) -> Callable[..., Any]:
    method = getattr(instance, name, None)
    if method is None:
        raise Refusal(f"{type(instance).__name__} has no {name}()", reason="UNSUPPORTED")
    return method  # type: ignore[no-any-return]


async def _awaited(result: Any) -> Any:
    return await result if isinstance(result, Awaitable) or inspect.isawaitable(result) else result
