"""Trajectories that belong together (pure)."""

from __future__ import annotations

from envmesh.errors import InvalidRequest
from envmesh.outcome import Trajectory

__all__ = ["Group", "check_counts"]


class Group(list[Trajectory]):
    """Trajectories that share task and seed, in the order in which they finished."""

    __slots__ = ("seed", "task")

    def __init__(self, seed: int | None, task: str):
        super().__init__()
        self.seed = seed
        self.task = task


def check_counts(
    episodes: int | None, *, concurrency: int, group_size: int, spares: int, retries: int
) -> None:
    """Refuse numbers of episodes that cannot be. Raises: InvalidRequest."""
    for name, value, least in (("concurrency", concurrency, 1), ("group_size", group_size, 1),
                               ("spares", spares, 0), ("retries", retries, 0)):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidRequest(f"{name} is a whole number of at least {least}; got {value!r}")
    if spares and group_size == 1:
        raise InvalidRequest(
            f"spares are for groups: group_size is more than 1 with them; got {spares} and 1"
        )
    if episodes is not None and (episodes < 0 or episodes % group_size):
        raise InvalidRequest(
            f"episodes is a multiple of group_size ({group_size}), at least 0; got {episodes!r}"
        )
