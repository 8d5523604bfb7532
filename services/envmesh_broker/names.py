"""Names of environments: ``name`` and ``name@version``, and which version a bare name means."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

__all__ = ["newest", "resolve", "split", "version_order"]

_PARTS = re.compile(r"\d+|[^\d.\-_+]+")


def split(name: str) -> tuple[str, str]:
    """Name and version; the version is empty where none is said."""
    bare, _, version = name.partition("@")
    return bare, version


def version_order(version: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key for the natural order of versions: 2 before 10, 1.0 before 1.0.1, 1-rc before 1."""
    parts = _PARTS.findall(version)
    key = tuple((1, int(part), "") if part.isdecimal() else (-1, 0, part) for part in parts)
    return (*key, (0, 0, ""))


def newest(keys: Iterable[str]) -> str | None:
    """Of several versions of one environment, the newest; None of none."""
    return max(keys, key=lambda key: (version_order(split(key)[1]), key), default=None)


def resolve(name: str, *choices: Collection[str]) -> str | None:
    """The ``name@version`` that ``name`` means: a full name itself if any of the ``choices`` has it, a bare name the
    newest version in the first of them that has one. None: nobody knows it."""
    bare, version = split(name)
    if version:
        return name if any(name in served for served in choices) else None
    for served in choices:
        found = newest(key for key in served if split(key)[0] == bare)
        if found is not None:
            return found
    return None
