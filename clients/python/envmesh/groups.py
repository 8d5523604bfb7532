"""Trajectories that belong together (pure)."""

from __future__ import annotations

from envmesh.outcome import Trajectory

__all__ = ["Group"]


class Group(list[Trajectory]):
    """Trajectories that share task and seed, in the order in which they finished."""

    __slots__ = ("seed", "task")

    def __init__(self, seed: int | None, task: str):
        super().__init__()
        self.seed = seed
        self.task = task
