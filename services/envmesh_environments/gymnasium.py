"""``gymnasium:<id>``: every environment that Gymnasium can make, as Gymnasium makes it.

* ``gymnasium:CartPole-v1``: a registered id. ``gymnasium:ale_py:ALE/Pong-v5``: imports the registering module first.
* ``gymnasium:CartPole-v1?max_episode_steps=50&render_mode=rgb_array``: keyword arguments of ``gymnasium.make``.
* ``gymnasium:CartPole-v1?render_mode=rgb_array&wrap=AddRenderObservation``: wrappers, innermost first, by their name
  in ``gymnasium.wrappers`` or as ``module.Wrapper``, with arguments by name and literal:
  ``&wrap=ResizeObservation(shape=(84,84))``.

Spaces are the environment's, ``truncated`` is what it says. Environments that Gymnasium ships are deterministic given
a seed and are REPLAY; its classic control and toy text run inline, all else in worker processes. An id registered
by another package gets the safe choices, unless its class is declared with ``envmesh.environment``.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from envmesh.build import build_digest
from envmesh.env import Declaration, Definition, Isolation, Recovery, declaration_of
from envmesh.target import TargetError, import_module, missing_extra, split_arguments, suggestion

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

_LIGHT = frozenset({"classic_control", "toy_text"})
"""Families whose step takes well under a millisecond and touches nothing shared."""
_DETERMINISTIC = _LIGHT | {"box2d", "mujoco", "phys2d", "tabular"}
"""Families that draw only from their own generator, seeded by ``reset``."""
_REMEMBERS = frozenset({"NormalizeObservation", "NormalizeReward", "RecordVideo", "HumanRendering"})
"""Wrappers that carry something from one episode to the next, or have effects outside."""
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "AcrobotEnv": ("low", "high"),
    "CartPoleEnv": ("low", "high"),
    "CarRacing": ("randomize",),
    "Continuous_MountainCarEnv": ("low", "high"),
    "MountainCarEnv": ("low", "high"),
    "PendulumEnv": ("x_init", "y_init"),
}
"""The reset options that an environment of Gymnasium's own understands, by class; it has no way to ask."""


def load(rest: str) -> Definition:
    """Define a registered environment: ``[module:]id[?key=value&…]``.

    Raises:
        TargetError: no such id, an argument it does not take, or a package that it needs and is not installed.
    """
    identifier, arguments = split_arguments(rest)
    module, colon, bare = identifier.rpartition(":")
    try:
        import gymnasium  # noqa: F401
    except ImportError as error:
        raise missing_extra("gymnasium", "environments", error) from error
    if colon:
        import_module(module)
    spec = _spec(bare, module)
    wraps = _wraps(arguments.pop("wrap", ()))
    if arguments.get("render_mode") == "human":
        raise TargetError("render_mode=human needs a screen, and a host has none: use render_mode=rgb_array")
    make = functools.partial(_make, spec.id, module, tuple(sorted(arguments.items())), wraps)
    try:
        environment = make()
    except ImportError as error:
        raise TargetError(f"{spec.id} needs a package that is not installed: {error}") from error
    except Exception as error:
        raise TargetError(f"{spec.id} could not be made: {type(error).__name__}: {error}") from error
    try:
        declaration = _declaration(
            spec, environment, wraps, rendered=arguments.get("render_mode") is not None
        )
    finally:
        environment.close()
    owner = type(environment.unwrapped).__module__.partition(".")[0]
    return Definition(
        target=f"gymnasium:{rest}",
        name=declaration.name or f"gymnasium:{rest}",
        declaration=declaration,
        factory=make,
        build=build_digest(
            None if owner == "gymnasium" else owner,
            distributions=("envmesh", "gymnasium", "numpy"),
            parts=(spec.id, repr(sorted(arguments.items())), repr(wraps)),
        ),
    )


def _spec(identifier: str, module: str) -> EnvSpec:
    import gymnasium
    from gymnasium.error import Error

    try:
        return gymnasium.spec(identifier)
    except Error as error:
        name = identifier.rpartition("-v")[0]
        versions = [known for known in gymnasium.registry if name and known.rpartition("-v")[0] == name]
        if versions:
            raise TargetError(
                f"no environment {identifier!r} is registered; there is {', '.join(versions)}"
            ) from error
        near = suggestion(identifier, gymnasium.registry)
        other = (
            "" if module or near else f" If another package registers it: gymnasium:<module>:{identifier}."
        )
        raise TargetError(
            f"no environment {identifier!r} is registered with Gymnasium.{near}{other}"
        ) from error


def _make(
    identifier: str, module: str, arguments: tuple[tuple[str, Any], ...], wraps: tuple[str, ...]
) -> gymnasium.Env[Any, Any]:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    import gymnasium

    if module:
        importlib.import_module(module)
    environment = gymnasium.make(identifier, disable_env_checker=True, **dict(arguments))
    for wrap in wraps:
        wrapper, keywords = _wrapper(wrap)
        environment = wrapper(environment, **keywords)
    return environment


def _declaration(
    spec: EnvSpec, environment: gymnasium.Env[Any, Any], wraps: tuple[str, ...], *, rendered: bool
) -> Declaration:
    declared = declaration_of(type(environment.unwrapped))
    if declared.declared:
        return replace(
            declared,
            observation_space=environment.observation_space,
            action_space=environment.action_space,
        )
    family = _family(spec)
    ours = all(
        "." not in wrap.partition("(")[0] and wrap.partition("(")[0] not in _REMEMBERS for wrap in wraps
    )
    light = family in _LIGHT and not rendered and ours
    replays = family in _DETERMINISTIC and not spec.nondeterministic and ours and not _of_chance(environment)
    return Declaration(
        version="1" if spec.version is None else str(spec.version),
        isolation=Isolation.INLINE if light else Isolation.PROCESS,
        recovery=Recovery.REPLAY if replays else Recovery.NONE,
        options=_OPTIONS.get(type(environment.unwrapped).__name__, ()) if family else (),
        seeded=True,
        declared=family is not None,
        observation_space=environment.observation_space,
        action_space=environment.action_space,
    )


def _of_chance(environment: gymnasium.Env[Any, Any]) -> bool:
    """Whether it is drawn when it is made, which no seed repeats: a FrozenLake without a map makes one up."""
    lake, keywords = environment.unwrapped, environment.spec.kwargs if environment.spec else {}
    given = keywords.get("desc"), keywords.get("map_name", "4x4")
    return type(lake).__name__ == "FrozenLakeEnv" and all(each is None for each in given)


def _family(spec: EnvSpec) -> str | None:
    """The family of an environment that Gymnasium ships (``classic_control``, …); None for anybody else's."""
    where = spec.entry_point if isinstance(spec.entry_point, str) else ""
    parts = where.partition(":")[0].split(".")
    return parts[2] if parts[:2] == ["gymnasium", "envs"] and len(parts) > 2 else None


def _wraps(given: Any) -> tuple[str, ...]:
    wraps = tuple(given) if isinstance(given, list | tuple) else (given,)
    for wrap in wraps:
        _wrapper(wrap)
    return tuple(str(wrap) for wrap in wraps)


def _wrapper(text: Any) -> tuple[Any, dict[str, Any]]:
    """The wrapper's class and its keyword arguments, from ``Name`` or ``Name(key=value, …)``."""
    form = "write wrap=Name, wrap=Name(key=value) or wrap=module.Name"
    try:
        tree = ast.parse(str(text), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(func=tree, args=[], keywords=[])
        if call.args:
            raise ValueError("its arguments need names")
        path = ast.unparse(call.func)
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise TargetError(f"wrap={text} cannot be read ({error}): {form}") from error
    module, dot, name = path.rpartition(".")
    wrappers = import_module(module if dot else "gymnasium.wrappers", f"wrap={text}")
    wrapper = getattr(wrappers, name, None)
    if not callable(wrapper):
        near = suggestion(name, [known for known in dir(wrappers) if known[:1].isupper()])
        raise TargetError(f"wrap={text}: {wrappers.__name__} has no wrapper {name!r}.{near}")
    return wrapper, keywords
