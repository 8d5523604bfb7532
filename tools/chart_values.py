"""What values.yaml says: each value with its path, its default, and the description in the lines above it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_KEY = re.compile(r"( *)([A-Za-z][A-Za-z0-9]*):(.*)")
_SAID = re.compile(r" *# -- (.*)")
_MORE = re.compile(r" *# (.*)")


@dataclass(frozen=True, slots=True)
class Value:
    """One value. ``default`` is what values.yaml has; ``text`` its description."""

    path: tuple[str, ...]
    default: Any
    text: str

    @property
    def name(self) -> str:
        """Its dotted path."""
        return ".".join(self.path)


def read_values(path: Path) -> list[Value]:
    """The values that have a description, in their order.

    Raises:
        ValueError: a description is above no key.
    """
    content = path.read_text()
    document = yaml.safe_load(content)
    found: list[Value] = []
    stack: list[tuple[int, str]] = []
    said: list[str] = []
    for number, line in enumerate(content.splitlines(), 1):
        if (match := _SAID.fullmatch(line)) is not None:
            said = [match[1]]
        elif said and (match := _MORE.fullmatch(line)) is not None:
            said.append(match[1])
        elif (match := _KEY.fullmatch(line)) is not None and not line.lstrip().startswith(("-", "#")):
            while stack and stack[-1][0] >= len(match[1]):
                stack.pop()
            stack.append((len(match[1]), match[2]))
            if said:
                where = tuple(key for _, key in stack)
                found.append(Value(where, lookup(document, where), " ".join(said)))
            said = []
        elif said:
            raise ValueError(f"{path.name}:{number}: a description that is above no key")
    return found


def lookup(document: Any, path: tuple[str, ...]) -> Any:
    """What is at a path."""
    for key in path:
        document = document[key]
    return document


def leaves(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of everything that is no map with keys."""
    if isinstance(document, dict) and document:
        for key, value in document.items():
            yield from leaves(value, (*path, key))
    else:
        yield path
