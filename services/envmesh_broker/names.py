"""What a name of an environment, ``name`` or ``name@version``, means among those that there are (pure)."""

from __future__ import annotations

from collections.abc import Collection

from envmesh.versions import newest, split

__all__ = ["resolve", "split"]


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
