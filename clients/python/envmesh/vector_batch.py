"""What a vector hands out: outcomes of many episodes as columns. Values are decoded when somebody looks."""

from __future__ import annotations

from typing import Any

import numpy as np

from envmesh import values
from envmesh.batch_codec import BatchCodec, integers
from envmesh.errors import Failure
from envmesh.tensors import Array

__all__ = ["Batch", "Rows"]

TERMINATED, TRUNCATED = 1, 2
FAILED = 4
"""The flag of a row that is no outcome; ours, it is never on the wire."""


class Rows:
    """Outcomes as they came: columns of equal length. ``flags`` and ``infos`` are None where all are empty;
    ``failures`` holds those of episodes that fell, whose rows have the flag FAILED and no payload."""

    __slots__ = ("failures", "flags", "ids", "infos", "payloads", "rewards")

    def __init__(self, ids: Array, payloads: list[bytes], rewards: Array, flags: Array | None,
                 infos: list[bytes] | None, failures: dict[int, Failure] | None = None):  # fmt: skip
        self.ids = ids
        ids.setflags(write=False)  # the journal keeps it
        self.payloads = payloads
        self.rewards = rewards
        self.flags = flags
        self.infos = infos
        self.failures = failures

    def __len__(self) -> int:
        return len(self.payloads)

    @classmethod
    def failed(cls, number: int, failure: Failure) -> Rows:
        """The row of an episode that fell."""
        return cls(integers([number]), [b""], np.full(1, np.nan), integers([FAILED]), None, {number: failure})

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """All rows of the parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls(integers([]), [], np.empty(0), None, None)
        payloads = [data for part in parts for data in part.payloads]
        flags = infos = failures = None
        if any(part.flags is not None for part in parts):
            flags = np.concatenate(
                [np.zeros(len(p), np.int64) if p.flags is None else p.flags for p in parts]
            )
        if any(part.infos is not None for part in parts):
            infos = [info for part in parts for info in part.infos or [b""] * len(part)]
        if any(part.failures for part in parts):
            failures = {
                number: failure for part in parts for number, failure in (part.failures or {}).items()
            }
        ids = np.concatenate([part.ids for part in parts])
        return cls(ids, payloads, np.concatenate([part.rewards for part in parts]), flags, infos, failures)

    def chosen(self, rows: Array) -> Rows:
        """Only these rows, in this order."""
        places = rows.tolist()
        ids = self.ids[rows]
        flags = None if self.flags is None else self.flags[rows]
        failures = None
        if self.failures and flags is not None:
            failures = {
                number: self.failures[number] for number in ids[(flags & FAILED) != 0].tolist()
            } or None
        return Rows(
            ids,
            [self.payloads[place] for place in places],
            self.rewards[rows],
            flags,
            None if self.infos is None else [self.infos[place] for place in places],
            failures,
        )


class Batch:
    """Outcomes of some of a vector's episodes. Row i is about episode ``ids[i]``.

    ``observations`` is one array where the observation space is a Box, Discrete, MultiDiscrete or MultiBinary, else a
    list. ``rewards`` are doubles; ``terminated``, ``truncated`` and ``valid`` are of bool. A row that is not ``valid``
    is of an episode that failed: its reward is NaN, its observation nothing (zeros in an array, None in a list), and
    ``failures`` says how, by id. ``infos`` is a list of dicts.
    """

    __slots__ = ("_codec", "_infos", "_observations", "rows")

    def __init__(self, rows: Rows, codec: BatchCodec):
        self.rows = rows
        self._codec = codec
        self._observations: Any = None
        self._infos: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        over, failed = int((self.terminated | self.truncated).sum()), len(self.failures)
        return f"<Batch of {len(self)}, {over} ended, {failed} failed>"

    @property
    def ids(self) -> Array:
        """Which episodes, as int64; read-only."""
        return self.rows.ids

    @property
    def rewards(self) -> Array:
        """What each step earned, as float64."""
        return self.rows.rewards

    @property
    def terminated(self) -> Array:
        """Which episodes ended by their own rules."""
        return self._flag(TERMINATED)

    @property
    def truncated(self) -> Array:
        """Which episodes were cut off."""
        return self._flag(TRUNCATED)

    @property
    def valid(self) -> Array:
        """Which rows are outcomes; the others are failures."""
        return ~self._flag(FAILED)

    @property
    def failures(self) -> dict[int, Failure]:
        """How the episodes failed that are not valid, by id."""
        return self.rows.failures or {}

    @property
    def observations(self) -> Any:
        """What is observed. Raises: MalformedValue or ValueError where an observation is not of its space."""
        if self._observations is None:
            rows = self.rows
            if rows.failures is None:
                self._observations = self._codec.decode(rows.payloads)
            else:
                self._observations = self._with_gaps(self.valid)
        return self._observations

    @property
    def infos(self) -> list[dict[str, Any]]:
        """What came with each observation."""
        if self._infos is None:
            packed = self.rows.infos
            if packed is None:
                self._infos = [{} for _ in self.rows.payloads]
            else:
                self._infos = [values.decode(info) if info else {} for info in packed]
        return self._infos

    def ordered(self) -> Batch:
        """The same rows in order of ids."""
        order = np.argsort(self.rows.ids)
        return self if (order[1:] > order[:-1]).all() else Batch(self.rows.chosen(order), self._codec)

    def _flag(self, bit: int) -> Array:
        flags = self.rows.flags
        return np.zeros(len(self), np.bool_) if flags is None else (flags & bit) != 0

    def _with_gaps(self, valid: Array) -> Any:
        there = np.flatnonzero(valid)
        found = self._codec.decode([self.rows.payloads[row] for row in there.tolist()])
        whole = self._codec.nothing(len(self))
        if isinstance(whole, np.ndarray):
            whole[there] = found
        else:
            for row, value in zip(there.tolist(), found, strict=True):
                whole[row] = value
        return whole
