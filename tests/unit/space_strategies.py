"""Hypothesis strategies for Gymnasium's spaces, and equality of their values."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces as g
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from envmesh import spaces as envmesh_spaces

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)

SCHEMA = {
    "type": "object",
    "properties": {"move": {"enum": ["left", "right"]}, "steps": {"type": "integer", "minimum": 1}},
    "required": ["move"],
    "additionalProperties": False,
}
TOOLS = envmesh_spaces.ToolList(
    (
        envmesh_spaces.Tool(
            "search", "Web search.", {"properties": {"query": {"type": "string"}}, "required": ["query"]}
        ),
        envmesh_spaces.Tool("finish"),
    )
)
"""What agents call, and what they send: for the tests of JSON spaces."""


@st.composite
def boxes(draw: st.DrawFn) -> g.Box:
    """Boxes of many dtypes, bounded on either side, both or none."""
    dtype = np.dtype(
        draw(st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "b1", "g"]))
    )
    shape = draw(SHAPES)
    least, span = (0, 1) if dtype.kind == "b" else (0 if dtype.kind == "u" else -50, 60)
    bounds = hnp.arrays(np.int64, shape, elements=st.integers(0, span))
    low = np.asarray(draw(bounds) + least)
    extent = draw(bounds)
    high = np.asarray(np.minimum(low + extent, 1) if dtype.kind == "b" else low + extent)
    if (dtype.kind == "f" or dtype in (np.int8, np.int32)) and draw(st.booleans()):
        low, high = low.astype(np.float64), high.astype(np.float64)
        low[draw(hnp.arrays(np.bool_, shape))] = -np.inf
        high[draw(hnp.arrays(np.bool_, shape))] = np.inf
        return g.Box(low, high, shape, dtype.type)
    if draw(st.booleans()) and dtype.kind != "b":
        return g.Box(int(low.min()), int(high.max()), shape, dtype.type)
    return g.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)


INTEGERS = st.sampled_from([np.int8, np.int16, np.int32, np.int64, np.uint8])


def leaves() -> st.SearchStrategy[g.Space[Any]]:
    """Spaces that hold no other."""
    characters = st.lists(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6, unique=True).map(
        "".join
    )
    discrete: st.SearchStrategy[g.Space[Any]] = st.builds(
        lambda n, start, dtype: g.Discrete(n, start=start, dtype=dtype),
        st.integers(1, 100),
        st.integers(0, 27),
        INTEGERS,
    )
    negative = st.builds(
        lambda n, start: g.Discrete(n, start=start), st.integers(1, 1 << 40), st.integers(-(1 << 40), 0)
    )
    multi_discrete = st.builds(
        lambda nvec, start, dtype: g.MultiDiscrete(nvec, dtype=dtype, start=np.full(nvec.shape, start)),
        SHAPES.filter(len).flatmap(lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(1, 90))),
        st.integers(0, 30),
        INTEGERS,
    )
    multi_binary = st.builds(g.MultiBinary, st.integers(1, 5) | SHAPES.filter(len))
    text = st.builds(
        lambda low, more, charset: g.Text(low + more, min_length=low, charset=charset),
        st.integers(0, 4),
        st.integers(0, 5),
        characters,
    )
    return st.one_of(boxes(), discrete, negative, multi_discrete, multi_binary, text)


def spaces() -> st.SearchStrategy[g.Space[Any]]:
    """Any of Gymnasium's spaces, nested in one another."""

    def around(inner: st.SearchStrategy[g.Space[Any]]) -> st.SearchStrategy[g.Space[Any]]:
        flat = boxes() | st.integers(1, 9).map(g.Discrete)
        return st.one_of(
            st.dictionaries(NAMES, inner, max_size=3).map(g.Dict),
            st.lists(st.tuples(NAMES, inner), max_size=3, unique_by=lambda pair: pair[0]).map(g.Dict),
            st.lists(inner, max_size=3).map(g.Tuple),
            st.builds(g.Sequence, inner, stack=st.just(False)),
            st.builds(g.Sequence, inner, stack=st.just(True)),
            st.lists(inner, min_size=1, max_size=3).map(g.OneOf),
            st.builds(g.Graph, flat, flat | st.none()),
            st.builds(g.Graph, inner, inner | st.none()),
        )

    return st.recursive(leaves(), around, max_leaves=4)


def equal(one: Any, other: Any) -> bool:
    """Whether two values of a space are equal: arrays in dtype and elements too; an integer is a numpy integer."""
    if isinstance(
        other, np.ndarray
    ):  # numpy makes scalars of arrays of rank 0 where it can, Gymnasium not always
        one = np.asarray(one) if isinstance(one, np.generic) else one
        return isinstance(one, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(equal(one[k], other[k]) for k in one)
        )
    if isinstance(one, tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)
