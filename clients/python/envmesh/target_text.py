"""What a target string says: its name, its scheme and rest, its arguments; and how mistakes in it are told."""

from __future__ import annotations

import ast
import difflib
import importlib.metadata
import json
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from envmesh.env import check_name

GROUP = "envmesh.adapters"
FORM = "a target is module:Class, file.py:Class, or an adapter's form such as gymnasium:CartPole-v1"
_LONGEST_NAME = 200


class TargetError(ValueError):
    """A target string that names no environment, or an environment that cannot be loaded."""


def split_target(text: str) -> tuple[str | None, str]:
    """Split ``[NAME=]TARGET`` into the name, where there is one, and the target.

    An ``=`` inside the target's query is left alone. The name may carry a version: ``cartpole@1``.

    Raises:
        TargetError: the name or the target is empty, or the name has characters a name cannot have.
    """
    head, equals, rest = text.strip().partition("=")
    if not equals or "?" in head:
        name, target = None, text.strip()
    else:
        name, target = head.strip(), rest.strip()
        split_name(name, text)
    if not target:
        raise TargetError(f"{text!r} has no target: {FORM}")
    return name, target


def split_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``rest?key=value&key=value`` into the rest and its arguments.

    A value is read as JSON or as a Python literal (``50``, ``0.5``, ``true``, ``None``, ``[1, 2]``, ``"text"``),
    and as plain text where it is neither. ``%26`` writes an ampersand. A repeated key makes a list of its values.

    Raises:
        TargetError: a part is not ``key=value``.
    """
    rest, mark, query = text.partition("?")
    arguments: dict[str, Any] = {}
    repeated: set[str] = set()
    if mark and not query:
        raise TargetError(f"{text!r} ends in '?': write {rest}?key=value, or leave the '?' out")
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise TargetError(f"{part!r} in {text!r} is not key=value; write {rest}?key=value&other=value")
        read = literal(unquote(value))
        if key not in arguments:
            arguments[key] = read
        elif key in repeated:
            arguments[key].append(read)
        else:
            arguments[key] = [arguments[key], read]
            repeated.add(key)
    return rest, arguments


def split_name(name: str, text: str) -> tuple[str, str | None]:
    """Split ``name@version``; ``text`` is what the error quotes."""
    bare, at, version = name.partition("@")
    try:
        check_name("an environment's name", bare)
        if at:
            check_name("an environment's version", version)
    except ValueError as error:
        raise TargetError(f"{text!r}: {error}; write name=target or name@version=target") from error
    return bare, version if at else None


def check_target_as_name(target: str) -> None:
    """Refuse a target string that could not be told apart as an environment's name."""
    if (
        len(target) > _LONGEST_NAME
        or "@" in target
        or not target.isprintable()
        or any(character.isspace() for character in target)
    ):
        raise TargetError(
            f"{target!r} cannot serve as a name (it has spaces or '@', or over {_LONGEST_NAME} characters): "
            f"write name={target}"
        )


def adapters() -> dict[str, importlib.metadata.EntryPoint]:
    """The installed adapters by scheme."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def suggestion(word: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with the choices close to ``word``, or nothing; it starts with a space."""
    by_folded: dict[str, str] = {}
    for choice in choices:
        by_folded.setdefault(choice.casefold(), choice)
    folded = word.casefold()
    close = difflib.get_close_matches(folded, by_folded, n=3, cutoff=0.6)
    if len(folded) >= 3:
        close += [choice for choice in by_folded if folded in choice and choice not in close]
    ratio = {choice: difflib.SequenceMatcher(None, folded, choice).ratio() for choice in close}
    best = max(ratio.values(), default=0.0)
    close = [choice for choice in close if ratio[choice] > best - 0.15 or folded in choice][:3]
    if not close:
        return ""
    return f" Did you mean {' or '.join(repr(by_folded[match]) for match in close)}?"


def last_line(error: BaseException) -> str:
    """The last line of the traceback, and where in the author's code it came from."""
    line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    if isinstance(error, SyntaxError):
        return f"{line} ({Path(error.filename or '?').name}, line {error.lineno})"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")
    ]
    if not frames or frames[-1].filename == __file__:
        return line
    return f"{line} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def literal(text: str) -> Any:
    """A value as JSON, else as a Python literal, else as the text it is."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return text
