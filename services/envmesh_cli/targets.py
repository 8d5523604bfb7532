"""From the command line's targets and declarations to definitions a host can serve."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from envmesh.env import Definition, Limits, overlaid
from envmesh.target import TargetError, load, split_target
from envmesh_cli.failures import USAGE, CommandFailed

__all__ = ["advice", "declaration_flags", "declarations", "load_targets", "looks_like_target"]

_FLAGS = ("isolation", "recovery", "slots", "version", "episodes_per_worker", "step_limit")


def declarations(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line declares, as fields of ``Declaration``; ``limits`` are those that it gives, by name.

    Raises:
        CommandFailed: the step limit is no duration in its bounds.
    """
    given = {name: getattr(arguments, name) for name in _FLAGS if getattr(arguments, name) is not None}
    if (text := given.pop("step_limit", None)) is not None:
        from envmesh_service.settings import parse_duration

        try:
            limits = {"step_seconds": parse_duration(text)}
            Limits(**limits)
        except ValueError as error:
            raise CommandFailed(f"--step-limit {text}: {error}", USAGE) from None
        given["limits"] = limits
    return given


def declaration_flags(arguments: argparse.Namespace) -> list[str]:
    """The same declarations as flags, for a child process."""
    flags = []
    for name in _FLAGS:
        if (value := getattr(arguments, name)) is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def load_targets(texts: Sequence[str], declared: dict[str, Any]) -> list[Definition]:
    """Load every target, with what the command line declares on top.

    Raises:
        TargetError: one cannot be loaded, or two have one name.
    """
    definitions = []
    for text in texts:
        name, target = split_target(text)
        overrides = dict(declared)
        if name is not None and "@" in name:
            overrides.pop("version", None)
        limits = overrides.pop("limits", {})
        definition = load(target, name=name, **overrides)
        if limits:
            declared_limits = definition.declaration.limits
            laid_over = {"limits": replace(declared_limits, **limits)}
            definition = replace(definition, declaration=overlaid(definition.declaration, laid_over))
        definitions.append(definition)
    keys = [definition.key for definition in definitions]
    for definition in definitions:
        if keys.count(definition.key) > 1:
            raise TargetError(
                f"{definition.key} is named twice: give one another name (other={definition.target}) or version"
            )
    return definitions


def looks_like_target(text: str) -> bool:
    """Whether a word names code, rather than an environment of a mesh."""
    head = text.partition("?")[0]
    return ":" in head or ".py" in head or "=" in head


def advice(definition: Definition) -> str | None:
    """What an environment that declares nothing misses, in a sentence; None where it declares something."""
    if definition.declaration.declared:
        return None
    return (
        f"{definition.key} declares nothing, so it gets the safe choices: a worker process for each episode, few "
        f"slots, and no recovery when a host is lost. `envmesh check {definition.target}` says what it could declare."
    )
