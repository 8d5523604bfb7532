"""The codec of a space: its values to bytes and back, made once and used at every step.

Values take their general form, which anybody reads without the space; only whole arrays of the declared dtype and
shape travel as ``packed`` bytes, without a header. ``plain`` and ``typed`` turn a value of the space into one that
``values.encode`` takes, and what ``values.decode`` gives into one that the space contains (tuples, integers,
graphs). What does not fit the space passes through both as it is, and ``check`` says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from envmesh import values
from envmesh.space_arrays import ArrayForm, MalformedSpace, array_form
from envmesh.tensors import Array, DType, array_bytes, view
from envmesh.v1 import space_pb2
from envmesh.wire import varint

__all__ = ["ANYTHING", "Codec", "GraphParts", "build"]

_SPELLED = 256

Turn: TypeAlias = Callable[[Any], Any]


class GraphParts(NamedTuple):
    """A graph as Gymnasium's ``GraphInstance`` has it, for where Gymnasium is not installed."""

    nodes: Any
    edges: Any
    edge_links: Any


@dataclass(frozen=True, slots=True)
class Codec:
    """How the values of one space travel."""

    encode: Callable[[Any], bytes]
    """A value to canonical bytes. Raises as ``values.encode`` does."""
    decode: Callable[[bytes], Any]
    """Bytes to a value. Raises ``MalformedValue``."""
    check: Callable[[Any], str | None]
    """None where the value belongs to the space; else a sentence that says what was wrong and what would be right."""
    plain: Turn
    """A value to what ``values.encode`` takes: for a value that travels inside another."""
    typed: Turn
    """The inverse of ``plain``, for what ``values.decode`` gave."""


def _same(value: Any) -> Any:
    return value


def _anything(value: Any) -> str | None:
    return None


ANYTHING = Codec(values.encode, values.decode, _anything, _same, _same)
"""The codec where no space is declared: its functions are those of ``envmesh.values`` themselves."""


def build(message: space_pb2.Space, check: Callable[[Any], str | None], action: bool) -> Codec:
    """The codec of a space; ``action`` as in ``envmesh.spaces.codec``.

    Raises:
        MalformedSpace: no space fits the message.
    """
    form = array_form(message)
    plain, typed = _turns(message, action)
    if form is not None:
        return Codec(_pack(form, plain), _unpack(form, typed, action), check, plain, typed)
    if message.HasField("discrete"):
        return Codec(*_integers(message.discrete), check, plain, typed)
    encode = values.encode if plain is _same else lambda value: values.encode(plain(value))
    decode = values.decode if typed is _same else lambda data: typed(values.decode(data))
    return Codec(encode, decode, check, plain, typed)


# ---- whole arrays


def _pack(form: ArrayForm, plain: Turn) -> Callable[[Any], bytes]:
    dtype, shape = form.dtype, form.shape
    header = _packed_header(form)
    careful = dtype.kind == "b" or dtype == np.longdouble

    def encode(value: Any) -> bytes:
        if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape:
            value = plain(value)
            if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape:
                return values.encode(value)
        if careful:
            return header + array_bytes(value)
        try:
            return b"".join((header, cast(bytes, value)))  # any buffer will do, and is copied once
        except TypeError:  # its elements do not lie in row-major order
            return header + value.tobytes()

    return encode


def _unpack(form: ArrayForm, typed: Turn, own: bool) -> Callable[[bytes], Any]:
    dtype, shape = form.dtype, form.shape
    header = _packed_header(form)
    offset = len(header)
    total = offset + dtype.itemsize * int(np.prod(shape))
    careful = dtype.kind == "b" or not shape

    def decode(data: bytes) -> Any:
        if len(data) != total or not data.startswith(header):
            return typed(values.decode(data, space_hint=form))
        if careful:
            return typed(view(data, offset, dtype, shape))
        array: Array = np.ndarray(shape, dtype, data, offset)
        return array.copy() if own else array

    return decode


def _packed_header(form: ArrayForm) -> bytes:
    return b"\x52" + varint(form.dtype.itemsize * int(np.prod(form.shape)))


def _copied(value: Any) -> Any:
    """An array as one that its owner may write to."""
    return value.copy() if isinstance(value, np.ndarray) else value


def _as_array(value: Any) -> Any:
    """A numpy scalar as the array of rank 0 that a space of shape () contains."""
    return np.asarray(value) if isinstance(value, np.generic) else value


def _own_array(dtype: DType, shape: tuple[int, ...]) -> Turn:
    """What turns an action into an array that the environment may write to, if it obviously means one."""

    def own(value: Any) -> Any:
        return _copied(_meant(value, dtype, shape))

    return own


def _meant(value: Any, dtype: DType, shape: tuple[int, ...]) -> Any:
    """``value`` as an array of ``dtype``, if it is one of ``shape`` and loses nothing but floating-point precision
    by it; else ``value``."""
    if not isinstance(value, np.ndarray | np.generic | list | tuple | int | float):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of different lengths
        return value
    if array.shape != shape or array.dtype.kind not in "biuf":
        return value
    if array.dtype == dtype:
        return array
    if dtype.kind != "f" and array.dtype.kind == "f" and array.size:
        return value
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    return converted if dtype.kind == "f" or (converted == array).all() else value


# ---- integers


def _integers(space: space_pb2.DiscreteSpace) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Encoder and decoder of a Discrete space; the first of its integers are spelled beforehand."""
    spelled = {
        value: values.encode(value) for value in range(space.start, space.start + min(space.n, _SPELLED))
    }
    read = {data: value for value, data in spelled.items()}

    def encode(value: Any) -> bytes:
        known = spelled.get(value) if type(value) is int else None
        return known if known is not None else values.encode(_integer(value))

    def decode(data: bytes) -> Any:
        known = read.get(data)
        return known if known is not None else _integer(values.decode(data))

    return encode, decode


def _integer(value: Any) -> Any:
    """A numpy integer as Python's; anything else as it is."""
    if isinstance(value, np.integer) or (
        isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu"
    ):
        return int(value)
    return value


# ---- the turns of every kind of space


def _turns(message: space_pb2.Space, action: bool) -> tuple[Turn, Turn]:
    """``plain`` and ``typed`` of a space; ``_same`` itself where there is nothing to turn."""
    form = array_form(message)
    if form is not None:
        if action:
            own = _own_array(form.dtype, form.shape)
            return (lambda value: _meant(value, form.dtype, form.shape)), own
        return (_same, _same) if form.shape else (_as_array, _as_array)
    kind = message.WhichOneof("kind")
    if kind == "discrete":
        return _integer, _integer
    if kind == "text":
        return _same, _same
    if kind == "dict":
        return _by_name({entry.name: _turns(entry.space, action) for entry in message.dict.entries})
    if kind == "tuple":
        return _by_place([_turns(space, action) for space in message.tuple.spaces])
    if kind == "sequence":
        element = message.sequence.element
        return _batch(element, action) if message.sequence.stacked else _each(*_turns(element, action))
    if kind == "one_of":
        return _one_of([_turns(space, action) for space in message.one_of.spaces])
    if kind == "graph":
        edge = message.graph.edge if message.graph.HasField("edge") else None
        nodes, edges = _batch(message.graph.node, action), _batch(edge, action) if edge else (_same, _same)
        return _graph(nodes, edges, _copied if action else _same)
    if kind == "json_schema":
        return _json, _same
    if kind == "tools":
        return (lambda value: value if isinstance(value, str) else _json(value)), _same
    raise MalformedSpace("the space is of an unknown kind")


def _json(value: Any) -> Any:
    return value if isinstance(value, values.Json) else values.Json(value)


def _by_name(turns: dict[str, tuple[Turn, Turn]]) -> tuple[Turn, Turn]:
    def turn(which: int) -> Turn:
        chosen = {name: pair[which] for name, pair in turns.items()}

        def by_name(value: Any) -> Any:
            if not isinstance(value, Mapping) or value.keys() != chosen.keys():
                return value
            return {name: each(value[name]) for name, each in chosen.items()}

        return by_name

    return turn(0), turn(1)


def _by_place(turns: list[tuple[Turn, Turn]]) -> tuple[Turn, Turn]:
    def turn(which: int) -> Turn:
        chosen = [pair[which] for pair in turns]

        def by_place(value: Any) -> Any:
            if not isinstance(value, list | tuple) or len(value) != len(chosen):
                return value
            return tuple(each(item) for each, item in zip(chosen, value, strict=True))

        return by_place

    return turn(0), turn(1)


def _each(plain: Turn, typed: Turn) -> tuple[Turn, Turn]:
    def turn(each: Turn) -> Turn:
        return lambda value: tuple(map(each, value)) if isinstance(value, list | tuple) else value

    return turn(plain), turn(typed)


def _one_of(turns: list[tuple[Turn, Turn]]) -> tuple[Turn, Turn]:
    def turn(which: int) -> Turn:
        def one_of(value: Any) -> Any:
            if not isinstance(value, list | tuple) or len(value) != 2:
                return value
            index = _integer(value[0])
            if not isinstance(index, int) or not 0 <= index < len(turns):
                return value
            return index, turns[index][which](value[1])

        return one_of

    return turn(0), turn(1)


def _batch(element: space_pb2.Space, action: bool) -> tuple[Turn, Turn]:
    """The turns of a stack of ``element``: arrays grow a dimension, maps and lists hold stacks, the rest is a tuple."""
    kind = element.WhichOneof("kind")
    if kind == "dict":
        return _by_name({entry.name: _batch(entry.space, action) for entry in element.dict.entries})
    if kind == "tuple":
        return _by_place([_batch(space, action) for space in element.tuple.spaces])
    if kind == "discrete" or array_form(element) is not None:
        return _same, _copied if action else _same
    return _each(*_turns(element, action))


def _graph(nodes: tuple[Turn, Turn], edges: tuple[Turn, Turn], links: Turn) -> tuple[Turn, Turn]:
    def plain(value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != 3:
            return value
        return [nodes[0](value[0]), None if value[1] is None else edges[0](value[1]), value[2]]

    def typed(value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != 3:
            return value
        edges_of = None if value[1] is None else edges[1](value[1])
        return instance(nodes[1](value[0]), edges_of, links(value[2]))

    instance = _graph_instance()
    return plain, typed


def _graph_instance() -> Callable[[Any, Any, Any], Any]:
    try:
        from gymnasium.spaces import GraphInstance
    except ImportError:
        return GraphParts
    return GraphInstance
