"""``--policy``: a random policy for an environment's action space, or a function of the user's."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from envmesh.outcome import EnvironmentSpec
from envmesh.policies import batched, kind_of, per_episode
from envmesh.spaces import JsonSchema, ToolList, describe
from envmesh.target import TargetError, import_module, suggestion
from envmesh_cli.check.schema_samples import sample_schema, sample_tool_call
from envmesh_cli.failures import USAGE, CommandFailed, status_of

__all__ = ["load_policy", "policy_for", "random_actions"]


def policy_for(words: str, spec: EnvironmentSpec, seed: int | None) -> Any:
    """The policy that ``--policy`` names, for this environment. What a function of the user's raises comes out of it as
    ``CommandFailed``, which says that it is the policy's.

    Raises:
        CommandFailed: it names none, or the action space cannot be sampled.
    """
    return random_actions(spec, seed) if words == "random" else _blamed(load_policy(words), words)


def _blamed(policy: Any, words: str) -> Any:
    """The same policy, of the same kind, whose errors say whose they are."""
    if isinstance(policy, Mapping):
        return {agent: _blamed(member, words) for agent, member in policy.items()}
    kind = kind_of(policy)

    def act(*arguments: Any, **named: Any) -> Any:
        try:
            made = policy(*arguments, **named)
            return _blamed(made, words) if kind.per_episode else made
        except Exception as error:
            raise _failed(words, error) from error

    async def act_later(*arguments: Any, **named: Any) -> Any:
        try:
            return await policy(*arguments, **named)
        except Exception as error:
            raise _failed(words, error) from error

    chosen = act_later if kind.asynchronous else act
    if kind.per_episode:
        return per_episode(chosen)
    return batched(chosen) if kind.batched else chosen


def _failed(words: str, error: Exception) -> CommandFailed:
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next  # without our own call of it
    return CommandFailed(f"--policy {words} failed: {status_of(error)[1]}")


def random_actions(spec: EnvironmentSpec, seed: int | None) -> Any:
    """A policy that samples the action space; with several agents, each samples its own. Where an observation has an
    ``action_mask``, as games have by custom, only legal actions are drawn.

    Raises:
        CommandFailed: the space cannot be sampled.
    """
    chance = random.Random(seed)
    space = spec.action_space
    if not spec.agents:
        return _sampler(space, chance, spec)
    return {agent: _sampler(_space_of(space, agent), chance, spec) for agent in spec.agents}


def _space_of(space: Any, agent: str) -> Any:
    """One agent's own space, where the environment's is one for each."""
    each = getattr(space, "spaces", None)
    if isinstance(each, Mapping) and agent in each:
        return each[agent]
    schema = getattr(space, "schema", None)
    return JsonSchema(schema[agent]) if isinstance(schema, Mapping) and agent in schema else space


def _sampler(space: Any, chance: random.Random, spec: EnvironmentSpec) -> Callable[[Any], Any]:
    if space is None:
        return lambda observation: "ok"
    if isinstance(space, JsonSchema):
        return lambda observation: sample_schema(space.schema, chance)
    if isinstance(space, ToolList):
        return lambda observation: sample_tool_call(space, chance)
    if not hasattr(space, "sample"):
        raise CommandFailed(
            f"the actions of {spec.key} ({describe(space)}) cannot be drawn at random: give --policy module:function",
            USAGE,
        )
    space.seed(chance.randrange(2**31))
    return lambda observation: _sample(space, observation)


def _sample(space: Any, observation: Any) -> Any:
    mask = observation.get("action_mask") if isinstance(observation, Mapping) else None
    if mask is not None and getattr(space, "n", None) == len(mask) and np.any(mask):
        return space.sample(mask=np.asarray(mask, np.int8))
    return space.sample()


def load_policy(words: str) -> Any:
    """``module:function`` or ``file.py:function``.

    Raises:
        CommandFailed: there is no such function, or it is no policy.
    """
    where, colon, name = words.rpartition(":")
    if not colon or not where or not name:
        raise CommandFailed(
            f"--policy {words}: 'random', module:function or file.py:function is right", USAGE
        )
    try:
        module = _module(where, f"--policy {words}")
    except TargetError as error:
        raise CommandFailed(str(error), USAGE) from error
    found = getattr(module, name, None)
    if found is None:
        near = suggestion(name, [key for key in vars(module) if not key.startswith("_")])
        raise CommandFailed(f"--policy {words}: {where} has no {name!r}.{near}", USAGE)
    try:
        kind_of(found)
    except TypeError as error:
        raise CommandFailed(f"--policy {words}: {error}", USAGE) from None
    return found


def _module(where: str, words: str) -> ModuleType:
    """The module of that name, or of that file: its directory comes before the working directory, so that another
    module of its name there is not taken for it."""
    if not where.endswith(".py"):
        return import_module(where, words)
    path = Path(where)
    if not path.is_file():
        raise TargetError(f"{words}: there is no file {where!r} in {Path.cwd()}")
    sys.path[:0] = [str(path.parent.resolve()), str(Path.cwd())]
    module = import_module(path.stem, words)
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != path.resolve():
        raise TargetError(
            f"{words}: another module named {path.stem!r} ({origin}) hides this file: rename it"
        )
    return module
