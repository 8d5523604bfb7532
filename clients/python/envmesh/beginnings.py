"""How callers say an episode is to begin, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envmesh import values
from envmesh.env import Task
from envmesh.episode import Beginning
from envmesh.errors import InvalidRequest

__all__ = ["make_beginning"]


def make_beginning(
    seed: int | None,
    options: Mapping[str, Any] | None,
    task: str | Task,
    split: str,
    group: int | None = None,
) -> Beginning:
    """How an episode is to begin, checked. Raises: InvalidRequest."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64):
        raise InvalidRequest(
            f"a seed is a whole number from 0 to 2**64 - 1; got {seed!r}", reason="SEED_UNSUPPORTED"
        )
    if isinstance(task, Task):
        split = task.split
        task = task.id
    try:
        packed = values.to_proto(dict(options)) if options else None
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the reset options have no form on the wire: {error}") from None
    return Beginning(seed, options, packed, task, split, group)
