"""Targets: the strings that name an environment's code.

``module:Class`` imports a class, or a function that makes environments; ``file.py`` and ``file.py:Class`` do
the same for a file; ``scheme:rest`` asks an adapter, an entry point of the group ``envmesh.adapters`` (a callable
``load(rest) -> Definition``). A query gives keyword arguments: ``countdown:Countdown?start=5``. On command
lines a name may stand before it, with a version: ``cartpole@1=gymnasium:CartPole-v1``.

Every mistake is a ``TargetError`` whose message says what was wrong, where, and what would be right.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from envmesh.env import Declaration, Definition, overlaid
from envmesh.target_code import define, find, import_module, load_file
from envmesh.target_text import (
    FORM,
    GROUP,
    TargetError,
    adapters,
    check_target_as_name,
    last_line,
    split_arguments,
    split_name,
    split_target,
    suggestion,
)

__all__ = [
    "GROUP",
    "TargetError",
    "adapters",
    "import_module",
    "load",
    "missing_extra",
    "split_arguments",
    "split_target",
    "suggestion",
    "with_spaces",
]


def load(target: str, *, name: str | None = None, **overrides: Any) -> Definition:
    """Load what a target names.

    ``name`` (``cartpole`` or ``cartpole@1``) is how the environment will be known; without it, the declaration's
    name, or else the target string itself. ``overrides`` are fields of ``Declaration`` and win over what the
    environment declares; those that are ``None`` are left alone. Nothing is instantiated for a ``module:Class``
    target; ``with_spaces`` reads the spaces from an instance.

    Raises:
        TargetError: with a sentence that says what was wrong, where, and what would be right.
    """
    chosen, version = (None, None) if name is None else split_name(name, name)
    if version is not None and overrides.get("version") not in (None, version):
        raise TargetError(
            f"{name!r} says version {version!r}, the options say {overrides['version']!r}: give one of them"
        )
    known = [field.name for field in fields(Declaration) if field.name not in ("name", "declared")]
    for key in overrides:
        if key not in known:
            raise TargetError(
                f"{key!r} is nothing an environment declares.{suggestion(key, known)} "
                f"It declares: {', '.join(known)}"
            )
    definition = _load(target)
    given = {**overrides, "version": version if version is not None else overrides.get("version")}
    given = {key: value for key, value in given.items() if value is not None}
    try:
        declaration = overlaid(definition.declaration, given)
    except (TypeError, ValueError) as error:
        raise TargetError(f"{target}: {error}") from error
    known_as = chosen or declaration.name or target
    if chosen is None and declaration.name is None:
        check_target_as_name(target)
    return replace(definition, name=known_as, declaration=declaration)


def with_spaces(definition: Definition) -> Definition:
    """The same definition with the spaces that an instance has, where the declaration gives none.

    Makes an instance and closes it, so it runs the environment's code: call it where that code may run.
    """
    declared = definition.declaration
    if declared.observation_space is not None and declared.action_space is not None:
        return definition
    instance = definition.factory()
    try:
        found = {
            key: getattr(instance, key, None)
            for key in ("observation_space", "action_space")
            if getattr(declared, key) is None and not callable(getattr(instance, key, None))
        }
    finally:
        closing = getattr(instance, "close", None)
        if callable(closing) and not inspect.iscoroutinefunction(closing):
            closing()
    return replace(
        definition,
        declaration=replace(declared, **{key: value for key, value in found.items() if value is not None}),
    )


def missing_extra(package: str, extra: str, error: ImportError) -> TargetError:
    """The error for an optional package that is not installed; ``extra`` is envmesh's extra that brings it."""
    return TargetError(f"this needs the package {package!r} ({error}): pip install 'envmesh[{extra}]'")


def _load(target: str) -> Definition:
    if any(character.isspace() for character in target.partition("?")[0]) or not target:
        raise TargetError(f"{target!r} is not a target: {FORM}")
    rest, arguments = split_arguments(target)
    if rest.endswith(".py") or ".py:" in rest:
        file, _, attribute = rest.partition(".py")
        return load_file(target, f"{file}.py", attribute.lstrip(":"), arguments)
    scheme, colon, attribute = rest.partition(":")
    if not colon:
        there = (
            f" Did you mean '{target}.py'?"
            if Path(f"{target}.py").is_file()
            else suggestion(target, adapters())
        )
        raise TargetError(f"{target!r} is not a target: {FORM}.{there}")
    if scheme in adapters():
        return _load_adapted(target, scheme)
    if not attribute:
        raise TargetError(f"{target!r} names no class after the ':': {FORM}")
    module = import_module(scheme, target)
    return define(target, module, find(module, attribute, target), arguments)


def _load_adapted(target: str, scheme: str) -> Definition:
    point = adapters()[scheme]
    try:
        adapter: Callable[[str], Definition] = point.load()
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or scheme, "environments", error) from error
    except Exception as error:
        raise TargetError(
            f"the adapter {scheme!r} ({point.value}) could not be imported; {last_line(error)}"
        ) from error
    rest = target[len(scheme) + 1 :]
    if not rest:
        raise TargetError(f"{target!r} says nothing after the ':'; write {scheme}:<id>")
    try:
        definition = adapter(rest)
    except TargetError as error:
        raise TargetError(f"{target}: {error}") from error
    except Exception as error:
        raise TargetError(
            f"{target}: the adapter {scheme!r} could not load it; {last_line(error)}"
        ) from error
    return replace(definition, target=target)
