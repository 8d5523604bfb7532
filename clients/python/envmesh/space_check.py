"""Whether a value belongs to a space, and if not, a sentence that says what was wrong and what would be right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import le
from typing import Any, TypeAlias

import numpy as np

from envmesh.space_arrays import ArrayForm, MalformedSpace, array_form
from envmesh.space_json import json_check, tools_check
from envmesh.space_words import a_value, array_words, integer_words, listing, text_words
from envmesh.tensors import DTYPES
from envmesh.v1 import space_pb2

__all__ = ["build_check"]

_FEW = 32

Check: TypeAlias = Callable[[Any], str | None]


def build_check(message: space_pb2.Space) -> Check:
    """What ``Codec.check`` of a space does.

    Raises:
        MalformedSpace: no space fits the message.
    """
    form = array_form(message)
    if form is not None:
        return _array(form, any_dtype=message.HasField("multi_binary"))
    kind = message.WhichOneof("kind")
    if kind is None:
        raise MalformedSpace("the space is of an unknown kind")
    return _CHECKS[kind](message)


def _located(place: Any, problem: str | None) -> str | None:
    """``problem`` with the place inside a value where it is: ``at ['a'][0]: …``."""
    if problem is None:
        return None
    return f"at [{place!r}]{problem[3:]}" if problem.startswith("at [") else f"at [{place!r}]: {problem}"


def _array(form: ArrayForm, any_dtype: bool) -> Check:
    dtype, shape, low, high, unlimited = form.dtype, form.shape, form.low, form.high, form.unlimited
    expected = array_words(form)
    few = int(np.prod(shape)) <= _FEW
    lows, highs = (np.broadcast_to(bound, shape).ravel().tolist() if few else [] for bound in (low, high))

    def check(value: Any) -> str | None:
        if not shape and isinstance(value, np.generic):
            value = np.asarray(value)
        if not isinstance(value, np.ndarray):
            return f"expected {expected}, got {a_value(value)}"
        if (
            value.dtype != dtype
            and not np.can_cast(value.dtype, dtype)
            and not (any_dtype and value.dtype.kind in "biuf")
        ):
            return f"expected {expected}, got {a_value(value)}"
        if value.shape != shape:
            return f"expected {expected}, got shape {value.shape}"
        if unlimited:
            return None
        if few:  # a loop in C over few numbers is quicker than numpy
            numbers = value.ravel().tolist()
            if all(map(le, lows, numbers)) and all(map(le, numbers, highs)) and not any_dtype:
                return None
        inside = (value >= low) & (value <= high)
        if any_dtype:
            inside &= (value == low) | (value == high)
        if inside.all():
            return None
        where = tuple(int(index) for index in np.argwhere(~inside)[0])
        least, greatest = (np.broadcast_to(bound, shape)[where] for bound in (low, high))
        return f"expected {expected}, got {value[where]} at {list(where)}, where {least} to {greatest} is allowed"

    return check


def _discrete(message: space_pb2.Space) -> Check:
    low = message.discrete.start
    high = low + message.discrete.n - 1
    if high < low:
        raise MalformedSpace("a discrete space has at least one element")
    expected = integer_words(low, high)

    def check(value: Any) -> str | None:
        if type(value) is int and low <= value <= high:
            return None
        whole = isinstance(value, int | np.integer) or (
            isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu"
        )
        if not whole:
            return f"expected {expected}, got {a_value(value)}"
        return None if low <= int(value) <= high else f"expected {expected}, got {value}"

    return check


def _text(message: space_pb2.Space) -> Check:
    least, greatest = message.text.min_length, message.text.max_length
    characters = frozenset(message.text.characters)
    expected = text_words(message.text)

    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return f"expected {expected}, got {a_value(value)}"
        if not least <= len(value) <= greatest:
            return f"expected {expected}, got {len(value)} characters"
        if characters.issuperset(value):
            return None
        where = next(index for index, character in enumerate(value) if character not in characters)
        return f"expected {expected}, got {value[where]!r} at {where}"

    return check


def _dict(message: space_pb2.Space) -> Check:
    return _map_of({entry.name: build_check(entry.space) for entry in message.dict.entries})


def _map_of(checks: dict[str, Check]) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return f"expected a map with the keys {listing(checks)}, got {a_value(value)}"
        missing = [name for name in checks if name not in value]
        surplus = [name for name in value if name not in checks]
        if missing or surplus:
            found = [f"{listing(missing)} is missing"] if missing else []
            found += [f"{listing(surplus)} is not one of them"] if surplus else []
            return f"expected a map with the keys {listing(checks)}, but {' and '.join(found)}"
        for name, each in checks.items():
            problem = _located(name, each(value[name]))
            if problem is not None:
                return problem
        return None

    return check


def _tuple(message: space_pb2.Space) -> Check:
    return _list_of([build_check(space) for space in message.tuple.spaces])


def _list_of(checks: list[Check]) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, list | tuple):
            return f"expected a tuple of length {len(checks)}, got {a_value(value)}"
        if len(value) != len(checks):
            return f"expected a tuple of length {len(checks)}, got one of length {len(value)}"
        problems = (
            _located(place, each(item)) for place, (each, item) in enumerate(zip(checks, value, strict=True))
        )
        return next((problem for problem in problems if problem is not None), None)

    return check


def _sequence(message: space_pb2.Space) -> Check:
    element = message.sequence.element
    return _stack(element) if message.sequence.stacked else _many(build_check(element))


def _many(each: Check) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, list | tuple):
            return f"expected a tuple of any length, got {a_value(value)}"
        problems = (_located(place, each(item)) for place, item in enumerate(value))
        return next((problem for problem in problems if problem is not None), None)

    return check


def _one_of(message: space_pb2.Space) -> Check:
    checks = [build_check(space) for space in message.one_of.spaces]
    expected = f"(index, value) with {integer_words(0, len(checks) - 1)} as index"

    def check(value: Any) -> str | None:
        if not isinstance(value, list | tuple) or len(value) != 2:
            return f"expected {expected}, got {a_value(value)}"
        index = value[0]
        if not isinstance(index, int | np.integer) or not 0 <= index < len(checks):
            return f"expected {expected}, got {a_value(index)} as index"
        return _located(1, checks[int(index)](value[1]))

    return check


def _stack(element: space_pb2.Space) -> Check:
    """The check of a stack of ``element``, in the form that Gymnasium's batches have."""
    kind = element.WhichOneof("kind")
    if kind == "dict":
        return _even(_map_of({entry.name: _stack(entry.space) for entry in element.dict.entries}))
    if kind == "tuple":
        return _even(_list_of([_stack(space) for space in element.tuple.spaces]))
    each = build_check(element)
    if kind != "discrete" and array_form(element) is None:
        return _many(each)
    integers = DTYPES.get(element.discrete.dtype) if kind == "discrete" else None

    def check(value: Any) -> str | None:
        if not isinstance(value, np.ndarray) or value.ndim == 0:
            return f"expected an array with one dimension more than its elements, got {a_value(value)}"
        if integers is not None and not np.can_cast(value.dtype, integers):  # one has no dtype, many have
            return f"expected an array of {integers}, got {a_value(value)}"
        problems = (_located(place, each(np.asarray(item))) for place, item in enumerate(value))
        return next((problem for problem in problems if problem is not None), None)

    return check


def _even(inner: Check) -> Check:
    """``inner``, and stacks of one length in every place."""

    def check(value: Any) -> str | None:
        problem = inner(value)
        if problem is not None:
            return problem
        lengths = sorted(_lengths(value))
        return None if len(lengths) <= 1 else f"expected stacks of one length, got lengths {listing(lengths)}"

    return check


def _lengths(value: Any) -> set[int]:
    parts = value.values() if isinstance(value, Mapping) else value
    return {len(part) for part in parts if isinstance(part, np.ndarray)}


def _graph(message: space_pb2.Space) -> Check:
    node = message.graph.node
    nodes = _stack(node)
    edges = _stack(message.graph.edge) if message.graph.HasField("edge") else None

    def check(value: Any) -> str | None:
        if not isinstance(value, list | tuple) or len(value) != 3:
            return f"expected a graph of nodes, edges and edge_links, got {a_value(value)}"
        problem = _located("nodes", nodes(value[0]))
        if problem is not None or (value[1] is None and value[2] is None):
            return problem
        if value[1] is None or value[2] is None:
            return "expected edges and edge_links, or neither; got only one of them"
        if edges is None:
            return "expected no edges, for this graph's carry none"
        problem = _located("edges", edges(value[1]))
        return (
            problem
            if problem is not None
            else _located("edge_links", _links(value[2], _count(node, value[0])))
        )

    return check


def _links(links: Any, nodes: int) -> str | None:
    expected = f"an integer array of shape (edges, 2) with indices of the {nodes} nodes"
    if (
        not isinstance(links, np.ndarray)
        or links.dtype.kind not in "iu"
        or links.ndim != 2
        or links.shape[1] != 2
    ):
        return f"expected {expected}, got {a_value(links)}"
    outside = links[(links < 0) | (links >= nodes)]
    return f"expected {expected}, got {outside[0]}" if outside.size else None


def _count(element: space_pb2.Space, stack: Any) -> int:
    """How many elements a stack holds: as many as the first of its parts that says so."""
    kind = element.WhichOneof("kind")
    if kind == "dict":
        return next((_count(entry.space, stack[entry.name]) for entry in element.dict.entries), 0)
    if kind == "tuple":
        return next((_count(space, part) for space, part in zip(element.tuple.spaces, stack, strict=True)), 0)
    return len(stack)


_CHECKS: dict[str, Callable[[space_pb2.Space], Check]] = {
    "discrete": _discrete,
    "text": _text,
    "dict": _dict,
    "tuple": _tuple,
    "sequence": _sequence,
    "one_of": _one_of,
    "graph": _graph,
    "json_schema": lambda message: json_check(message.json_schema.schema),
    "tools": lambda message: tools_check(message.tools),
}
