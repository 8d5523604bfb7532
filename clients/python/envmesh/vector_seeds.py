"""The seeds of a vector's episodes: one sequence, whatever the order in which episodes end (pure)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envmesh.errors import InvalidRequest
from envmesh.tensors import Array

__all__ = ["SeedSequence"]


class SeedSequence:
    """The first episode at place i has the seed ``base + i``, as Gymnasium's vectors have it; the k-th has element
    ``k * count + i`` of a sequence that ``base`` begins. So the episodes at one place do not depend on those at
    others, nor on who is quick.

    Raises:
        InvalidRequest: a seed is no whole number from 0 to 2**31 - 1.
    """

    def __init__(self, count: int, base: int):
        self._count = count
        self._base = _checked(base)
        self._rounds = np.zeros(count, np.int64)
        self._given: dict[int, int] = {}

    def restart(self, seed: int | Sequence[int], places: Sequence[int]) -> None:
        """Begin anew: from one number, or with one for each of ``places``. Raises: InvalidRequest."""
        if isinstance(seed, int):
            self._base = _checked(seed)
            self._given.clear()
            self._rounds[list(places)] = 0
            return
        if len(seed) != len(places):
            raise InvalidRequest(f"{len(seed)} seeds for {len(places)} episodes", reason="SEED_UNSUPPORTED")
        self._given.update({place: _checked(each) for place, each in zip(places, seed, strict=True)})

    def following(self, places: Array) -> list[int]:
        """The seeds of the next episodes at these places."""
        played = self._rounds[places]
        self._rounds[places] = played + 1
        drawn = mixed(self._base, played * self._count + places)
        seeds: list[int] = np.where(played == 0, self._base + places, drawn).tolist()
        if self._given:
            return [self._given.pop(place, seed) for place, seed in zip(places.tolist(), seeds, strict=True)]
        return seeds


def mixed(base: int, elements: Array) -> Array:
    """31 bits that look random, for each element. Source: SplitMix64 (Steele, Lea and Flood, 2014)."""
    state = (elements.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(base * 0xD1342543DE82EF95 & (1 << 64) - 1)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(33)).astype(np.int64)


def _checked(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 31:
        raise InvalidRequest(f"a seed of a vector is a whole number from 0 to 2**31 - 1; got {seed!r}",
                             reason="SEED_UNSUPPORTED")  # fmt: skip
    return seed
