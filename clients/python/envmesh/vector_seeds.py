"""The seeds of a vector's episodes: one sequence, whatever the order in which episodes end (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import SupportsIndex, TypeAlias

import numpy as np

from envmesh.errors import InvalidRequest
from envmesh.tensors import Array

__all__ = ["SeedSequence", "Seeds"]

Seeds: TypeAlias = "SupportsIndex | Sequence[SupportsIndex] | Array"
"""One seed, or one for each; numpy's whole numbers are as good as Python's."""

BITS_64 = (1 << 64) - 1


class SeedSequence:
    """The first episode at place i has the seed ``base + i``, as Gymnasium's vectors have it; the k-th has element
    ``k * count + i`` of a sequence that ``base`` begins. So the episodes at one place do not depend on those at
    others, nor on who is quick.

    Raises:
        InvalidRequest: a seed is no whole number from 0 to 2**31 - 1.
    """

    def __init__(self, count: int, base: SupportsIndex):
        self._count = count
        self._base = _checked(base)
        self._rounds = [0] * count
        self._given: dict[int, int] = {}

    def restart(self, seed: Seeds, places: Sequence[int]) -> None:
        """Begin anew: from one number, or with one for each of ``places``. Raises: InvalidRequest."""
        if isinstance(seed, np.ndarray):
            seed = seed.tolist()
        if not isinstance(seed, Sequence):
            self._base = _checked(seed)
            self._given.clear()
            for place in places:
                self._rounds[place] = 0
            return
        if len(seed) != len(places):
            raise InvalidRequest(f"{len(seed)} seeds for {len(places)} episodes", reason="SEED_UNSUPPORTED")
        self._given.update({place: _checked(each) for place, each in zip(places, seed, strict=True)})

    def following(self, places: Sequence[int]) -> list[int]:
        """The seeds of the next episodes at these places."""
        rounds, base, count = self._rounds, self._base, self._count
        seeds = []
        for place in places:
            played = rounds[place]
            rounds[place] = played + 1
            seeds.append(mixed(base, played * count + place) if played else base + place)
        if self._given:
            return [self._given.pop(place, seed) for place, seed in zip(places, seeds, strict=True)]
        return seeds


def mixed(base: int, element: int) -> int:
    """31 bits that look random. Plain integers, for mostly a few episodes begin at a time, to which an array is a
    detour. Source: SplitMix64 (Steele, Lea and Flood, 2014)."""
    state = (element + 1) * 0x9E3779B97F4A7C15 + base * 0xD1342543DE82EF95 & BITS_64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & BITS_64
    state = (state ^ state >> 27) * 0x94D049BB133111EB & BITS_64
    return (state ^ state >> 31) >> 33


def _checked(seed: object) -> int:
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 1 << 31:
        raise InvalidRequest(f"a seed of a vector is a whole number from 0 to 2**31 - 1; got {seed!r}",
                             reason="SEED_UNSUPPORTED")  # fmt: skip
    return int(seed)
