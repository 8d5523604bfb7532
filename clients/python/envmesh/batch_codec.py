"""Whole columns of values at once: what a frame carries for many episodes, to arrays and back (pure).

What one value costs in Python is paid here once a frame: arrays of one dtype and shape are joined and looked at as one
array, and integers are looked up. Everything else goes through the codec of its space,
value by value, and the results are the same.
"""

from __future__ import annotations

from array import array as flat_array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from envmesh import spaces
from envmesh.columns import decoder_of, encoder_of
from envmesh.space_arrays import ArrayForm, array_form
from envmesh.tensors import DTYPES, Array
from envmesh.v1 import space_pb2
from envmesh.wire import varint

__all__ = ["BatchCodec"]

REMEMBERED_INTEGERS = 1 << 16
_WHOLE = frozenset({int, *(np.dtype(code).type for code in np.typecodes["AllInteger"])})


class BatchCodec:
    """How columns of the values of one space travel; None is the space of any value. ``action`` as in
    ``envmesh.spaces.codec``."""

    def __init__(self, message: space_pb2.Space | None, *, action: bool = False):
        codec = spaces.codec(message, action=action)
        self.size: int | None = None  # how many bytes each value takes, where all take the same
        self.packed: int | None = None  # the same of the column encoded last; None: in general form
        self._encode: Callable[[Any], bytes] = codec.encode
        self._decode: Callable[[bytes], Any] = codec.decode
        self._encode_column = encoder_of(codec.encode)
        self._decode_column = decoder_of(codec.decode)
        self._form: ArrayForm | None = None
        self._integers: np.dtype[Any] | None = None
        self._value_of: dict[bytes, int] = {}
        self._bytes_of: dict[int, bytes] = {}
        self._header = np.empty(0, np.uint8)
        if message is None:
            return
        form = array_form(message)
        if form is not None:
            self._form = form
            size = form.dtype.itemsize * int(np.prod(form.shape))
            self._header = np.frombuffer(b"\x52" + varint(size), np.uint8)
            self._careful = form.dtype.kind == "b" or form.dtype == np.longdouble or size == 0
            self.size = len(self._header) + size
        elif message.HasField("discrete"):
            self._integers = DTYPES[message.discrete.dtype]

    @property
    def stacks(self) -> bool:
        """Whether ``decode`` gives one array."""
        return self._form is not None or self._integers is not None

    def nothing(self, count: int) -> Array | list[Any]:
        """``count`` placeholders: zeros where values stack, else None."""
        if self._form is not None:
            return np.zeros((count, *self._form.shape), self._form.dtype)
        if self._integers is not None:
            return np.zeros(count, self._integers)
        return [None] * count

    # ---- bytes to values

    def decode(self, payloads: list[bytes]) -> Array | list[Any]:
        """The values of a column, as one array where they stack.

        Raises:
            MalformedValue: one of them is no value. ValueError: they do not stack.
        """
        if not payloads:
            return self.nothing(0)
        if self._form is not None:
            return self._decode_arrays(payloads, self._form)
        if self._integers is not None:
            known = self._value_of
            try:
                return np.array([known[data] for data in payloads], self._integers)
            except KeyError:
                return self._decode_integers(payloads, self._integers)
        return self._decode_column(payloads)

    def _decode_arrays(self, payloads: list[bytes], form: ArrayForm) -> Array:
        total, header = self.size, self._header
        if not self._careful and set(map(len, payloads)) == {total}:
            rows = np.frombuffer(b"".join(payloads), np.uint8).reshape(len(payloads), -1)
            if (rows[:, : len(header)] == header).all():
                body = rows[:, len(header) :].copy()  # one row is contiguous, yet read-only and unaligned
                return body.view(form.dtype).reshape(len(payloads), *form.shape)
        return np.stack([np.asarray(self._decode(data)) for data in payloads])

    def _decode_integers(self, payloads: list[bytes], dtype: np.dtype[Any]) -> Array:
        known = self._value_of
        if len(known) > REMEMBERED_INTEGERS:
            known.clear()
        for data in payloads:
            if data not in known:
                known[data] = self._decode(data)
        return np.array([known[data] for data in payloads], dtype)

    # ---- values to bytes

    def encode(self, column: Any) -> list[bytes]:
        """Each value of a column (an array whose first dimension counts the values, or a sequence), serialized.

        Raises:
            TypeError, ValueError: one of them has no form in the protocol.
        """
        self.packed = None
        if self._form is not None:
            return self._encode_arrays(column, self._form)
        whole = isinstance(column, np.ndarray) and column.dtype.kind in "iu" and column.ndim == 1
        if whole:
            column = column.tolist()
        if self._integers is not None:
            if not whole and not _WHOLE.issuperset(map(type, column)):
                return list(map(self._encode, column))  # a dict would take 1.0 and True for the 1 they equal
            known = self._bytes_of
            try:
                return [known[value] for value in column]
            except KeyError:
                return self._encode_integers(column)
        return self._encode_column(column if isinstance(column, Sequence) else list(column))

    def _encode_arrays(self, column: Any, form: ArrayForm) -> list[bytes]:
        if not isinstance(column, np.ndarray) and not _same_shapes(column, form):
            return list(map(self._encode, column))
        given = np.asarray(column)
        if given.dtype != form.dtype:
            given = _without_loss(given, form)
        if given.dtype != form.dtype or given.shape[1:] != form.shape or self._careful or not len(given):
            return list(map(self._encode, given))
        header, count = len(self._header), len(given)
        width = self.packed = header + form.dtype.itemsize * int(np.prod(form.shape))
        rows = np.empty((count, width), np.uint8)
        rows[:, :header] = self._header
        rows[:, header:] = np.ascontiguousarray(given).view(np.uint8).reshape(count, -1)
        data = rows.tobytes()
        return [data[start : start + width] for start in range(0, count * width, width)]

    def _encode_integers(self, column: Sequence[int]) -> list[bytes]:
        known = self._bytes_of
        if len(known) > REMEMBERED_INTEGERS:
            known.clear()
        for value in column:
            if value not in known:
                known[value] = self._encode(value)
        return [known[value] for value in column]


def _same_shapes(column: Any, form: ArrayForm) -> bool:
    """Whether numpy may make one array of the members: all have the shape of the space."""
    return all(np.shape(value) == form.shape for value in column)


def _without_loss(given: Array, form: ArrayForm) -> Array:
    """The same values in the dtype of the space, if nothing but floating-point precision is lost by it."""
    if given.dtype.kind not in "biuf" or (form.dtype.kind != "f" and given.dtype.kind == "f"):
        return given
    with np.errstate(over="ignore"):
        converted = given.astype(form.dtype)
    return converted if form.dtype.kind == "f" or (converted == given).all() else given


def integers(numbers: list[int]) -> Array:
    """A column of whole numbers as an array; quicker than ``np.array``."""
    return np.frombuffer(flat_array("q", numbers), np.int64)


def reals(numbers: list[float]) -> Array:
    """A column of floating-point numbers as an array."""
    return np.frombuffer(flat_array("d", numbers), np.float64)
