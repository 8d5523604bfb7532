"""The bounds of a pool of worker processes, and what a forkserver has to know."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from envmesh.env import Definition

__all__ = ["ProcessSettings", "configuration_of", "worker_bounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """Bounds of a pool. ``workers`` bounds the processes (default: one per slot where a worker has one episode, else
    one per CPU, or as many as the slots need); one without an episode ends after ``idle_seconds``, save the last.
    ``start_seconds`` bounds the environment's imports; what its creation may take is its reset limit.
    ``memory_bytes`` bounds each worker's private memory: beyond it the environment meets a MemoryError."""

    workers: int | None = None
    idle_seconds: float = 60.0
    start_seconds: float = 180.0
    memory_bytes: int | None = None
    max_value_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name in ("workers", "idle_seconds", "start_seconds", "memory_bytes", "max_value_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0; got {value!r}")


NOT_SENT = ("name", "declared", "observation_space", "action_space")
"""Fields of a declaration that a forkserver finds by itself: the spaces are in the code, or in what a worker says."""


def worker_bounds(workers: int | None, seats_each: int, slots: int) -> tuple[int, int]:
    """How many workers episodes are spread over, and how many there may be at most."""
    if workers is not None:
        return workers, workers
    needed = math.ceil(slots / seats_each)
    if seats_each == 1:
        return needed, needed
    spread = min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, slots
    )
    return spread, max(spread, needed)


def configuration_of(definition: Definition, settings: ProcessSettings) -> dict[str, Any]:
    """What a forkserver has to know: the target, loaded anew there, and what was declared over it."""
    declaration = definition.declaration
    declared = {
        field.name: plain(getattr(declaration, field.name))
        for field in fields(declaration)
        if field.name not in NOT_SENT
    }
    return {
        "target": definition.target,
        "name": definition.name,
        "declaration": declared,
        "seats": declaration.worker_episodes,
        "max_value_bytes": settings.max_value_bytes,
        "memory_bytes": settings.memory_bytes,
    }


def plain(value: Any) -> Any:
    """A field of a declaration as JSON has it."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
