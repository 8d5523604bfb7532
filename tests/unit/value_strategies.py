"""Hypothesis strategies for values, what a value comes back as, and equality that knows arrays and NaN."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from envmesh import values
from envmesh.tensors import CODES, DTYPES

MEDIA_TYPES = st.sampled_from(["application/octet-stream", "image/png", "", "audio/wav"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    """Every dtype a tensor may have, in both byte orders."""
    return st.sampled_from(sorted(CODES, key=str)).flatmap(
        lambda dtype: st.sampled_from([dtype, dtype.newbyteorder(">")])
    )


def _array_of(dtype: np.dtype[Any]) -> st.SearchStrategy[Any]:
    # Any bits are an element, NaNs of every payload among them; bool has but two.
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)

    def build(drawn: tuple[tuple[int, ...], bytes, bool]) -> Any:
        shape, seed, fortran = drawn
        count = int(np.prod(shape))
        raw = (seed * (count * dtype.itemsize // len(seed) + 1))[: count * dtype.itemsize]
        if dtype.kind == "b":
            raw = bytes(byte & 1 for byte in raw)
        if dtype.newbyteorder("<") in (np.longdouble, np.clongdouble):  # not all of its bits are a number
            array = np.frombuffer(raw, np.uint32)[: count * (1 + (dtype.kind == "c"))].astype(np.float64)
            array = (array if dtype.kind == "f" else array.view(np.complex128)).astype(dtype).reshape(shape)
        else:
            array = np.frombuffer(raw, dtype).reshape(shape)
        return np.asfortranarray(array) if fortran else array

    return st.tuples(shapes, st.binary(min_size=1, max_size=40), st.booleans()).map(build)


def arrays() -> st.SearchStrategy[Any]:
    """Arrays of every dtype, byte order and memory order, of rank 0 to 4, empty ones among them."""
    return dtypes().flatmap(_array_of)


def leaves() -> st.SearchStrategy[Any]:
    """Values that hold no other."""
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.floats(),
        TEXT,
        st.binary(),
        st.builds(values.Blob, st.binary(), MEDIA_TYPES),
        documents().map(values.Json),
        arrays(),
        arrays().filter(lambda array: array.ndim == 0).map(lambda array: array[()]),
    )


def documents() -> st.SearchStrategy[Any]:
    """JSON documents."""
    plain = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT
    )
    return st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    )


def nested() -> st.SearchStrategy[Any]:
    """Any value."""
    return st.recursive(
        leaves(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(TEXT, inner, max_size=4)
        ),
        max_leaves=12,
    )


def returned(value: Any) -> Any:
    """What ``decode(encode(value))`` is to be."""
    if isinstance(value, values.Blob) and value.media_type in ("", values.DEFAULT_MEDIA_TYPE):
        return value.data
    if isinstance(value, values.Json):
        return value.document
    if isinstance(value, list | tuple):
        return [returned(item) for item in value]
    if isinstance(value, dict):
        return {key: returned(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value[()]
    return value


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in type and content; NaNs of the same bits are."""
    if isinstance(one, np.ndarray | np.generic):
        return (
            isinstance(other, np.ndarray if isinstance(one, np.ndarray) else np.generic)
            and one.dtype.newbyteorder("<") == other.dtype.newbyteorder("<")
            and one.shape == other.shape
            and _bits(one) == _bits(other)
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _bits(array: Any) -> bytes:
    little = DTYPES[CODES[array.dtype.newbyteorder("<")]]
    raw = np.ascontiguousarray(array).astype(little)
    if little in (np.longdouble, np.clongdouble):  # their padding is nobody's business
        return repr(raw.tolist()).encode()
    return raw.tobytes()
