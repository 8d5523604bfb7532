"""The state of ``random``'s and numpy's global generators, saved and loaded between episodes.

An environment that draws from them can share a worker only if each episode finds them as it left them. The official
functions take about 0.3 ms a switch (numpy copies its 624 words one by one), more than many a step; so the states are
copied as memory. Where they lie is found by looking for known states, and trusted only if they are found exactly as
expected; otherwise the official functions are used.
"""

from __future__ import annotations

import _random
import ctypes
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy.random

__all__ = ["GlobalRandom"]

_WORDS = 624
_STATE_BYTES = 4 * (_WORDS + 1)
_RARE = 1.2345678901234567
"""A float whose bytes stand nowhere by chance."""

State = tuple[Any, ...]


class GlobalRandom:
    """Both global generators of this process. ``direct`` says whether their memory is copied."""

    def __init__(self, *, direct: bool = True):
        places = _places() if direct else None
        self.direct = places is not None
        self.save: Callable[[], State]
        self.load: Callable[[State], None]
        if places is None:
            self.save, self.load = _official_save, _official_load
        else:
            self.save, self.load = _direct_functions(*places)

    def seed(self, seed: int | None) -> None:
        """Begin anew from a seed, or from the operating system's randomness where there is none."""
        random.seed(seed)
        if seed is None:
            numpy.random.seed()
        else:
            numpy.random.seed([(seed >> shift) & 0xFFFFFFFF for shift in (0, 32)] if seed >> 32 else seed)


def _official_save() -> State:
    return random.getstate(), numpy.random.get_state(legacy=False)


def _official_load(state: State) -> None:
    random.setstate(state[0])
    numpy.random.set_state(state[1])


def _direct_functions(
    python: int, words: int, gauss: int
) -> tuple[Callable[[], State], Callable[[State], None]]:
    """``save`` and ``load`` for generators whose states lie at these addresses."""
    instance: Any = random._inst
    copy, fill = ctypes.string_at, ctypes.memmove

    def save() -> State:
        return copy(python, _STATE_BYTES), instance.gauss_next, copy(words, _STATE_BYTES), copy(gauss, 16)

    def load(state: State) -> None:
        fill(python, state[0], _STATE_BYTES)
        instance.gauss_next = state[1]
        fill(words, state[2], _STATE_BYTES)
        fill(gauss, state[3], 16)

    return save, load


def _places() -> tuple[int, int, int] | None:
    """Where the states lie: Python's generator (index and words), numpy's words and index, and its kept normal."""
    try:
        places = _place_of_python(), _place_of_words(), _place_of_normal()
        return places if _proved(*places) else None
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def _place_of_python() -> int:
    state = random.getstate()[1]
    instance = random._inst
    memory = ctypes.string_at(id(instance), _random.Random.__basicsize__)
    return id(instance) + memory.index(struct.pack(f"={_WORDS + 1}I", state[-1], *state[:-1]))


def _place_of_words() -> int:
    generator = numpy.random.mtrand._rand._bit_generator
    address = int(generator.ctypes.state_address)
    state = numpy.random.get_state(legacy=False)["state"]
    if ctypes.string_at(address, _STATE_BYTES) != state["key"].tobytes() + struct.pack("=i", state["pos"]):
        raise LookupError("numpy's generator lies elsewhere")
    return address


def _place_of_normal() -> int:
    """numpy keeps the second of each pair of normals: a flag and a float64, 8 bytes each."""
    specimen = numpy.random.RandomState(0)
    state = specimen.get_state(legacy=False)
    specimen.set_state({**state, "has_gauss": 1, "gauss": _RARE})
    size = type(specimen).__basicsize__
    offset = ctypes.string_at(id(specimen), size).index(struct.pack("=d", _RARE)) - 8
    flags = []
    for flag in (1, 0, 1):
        specimen.set_state({**state, "has_gauss": flag, "gauss": _RARE})
        flags.append(struct.unpack_from("=i", ctypes.string_at(id(specimen) + offset, 4))[0])
    if flags != [1, 0, 1]:
        raise LookupError("numpy keeps its normal elsewhere")
    return id(numpy.random.mtrand._rand) + offset


def _proved(python: int, words: int, gauss: int) -> bool:
    """Whether saving, drawing and loading gives back what the official functions say was there."""
    save, load = _direct_functions(python, words, gauss)
    before, saved = _official_save(), save()

    def draw() -> tuple[float, ...]:
        return random.gauss(0, 1), random.random(), numpy.random.normal(), numpy.random.random()

    try:
        random.gauss(0, 1), numpy.random.normal()
        middle = save()
        drawn = draw()
        load(middle)
        again = draw()
        load(saved)
        after = _official_save()
    finally:
        _official_load(before)
    return drawn == again and before[0] == after[0] and _plain(before[1]) == _plain(after[1])


def _plain(state: Any) -> tuple[bytes, int, int, float]:
    return state["state"]["key"].tobytes(), state["state"]["pos"], state["has_gauss"], state["gauss"]
