"""Names of environments, ``name`` and ``name@version``, and which version is the newest: one answer for clients, hosts
and brokers, so that a bare name means the same to all of them (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["newest", "rising", "split", "version_order"]

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


def rising(keys: Iterable[str]) -> list[str]:
    """Full names, sorted by name, the versions of each from the oldest to the newest."""
    return sorted(keys, key=lambda key: (split(key)[0], _age(key)))


def newest(keys: Iterable[str]) -> str | None:
    """Of several versions of one environment, the newest; None of none."""
    return max(keys, key=_age, default=None)


def _age(key: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    return version_order(split(key)[1]), key
