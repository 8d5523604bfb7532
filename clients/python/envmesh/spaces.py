"""Spaces: Gymnasium's, JSON Schema and tool lists, to messages and back, and the codecs of their values.

A space is given as a ``gymnasium.Space``, a ``JsonSchema`` (or the bare schema, a dict), a ``ToolList``, or the
message itself. Gymnasium is imported only to make one of its spaces; codecs, checks and descriptions come from the
message and need numpy alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from envmesh.errors import MissingExtra
from envmesh.space_arrays import ArrayForm, MalformedSpace, array_form, bound_from, bound_tensor, tensor_array
from envmesh.space_check import build_check
from envmesh.space_codec import ANYTHING, Codec, build
from envmesh.space_json import JsonSchema, Tool, ToolList, read_schema, spell_schema
from envmesh.space_words import describe_message
from envmesh.tensors import CODES, DTYPES, Array
from envmesh.v1 import space_pb2, value_pb2
from envmesh.values import to_proto as value_to_proto

if TYPE_CHECKING:
    import gymnasium

__all__ = [
    "Codec",
    "JsonSchema",
    "MalformedSpace",
    "Tool",
    "ToolList",
    "codec",
    "describe",
    "from_proto",
    "is_authors_own",
    "to_proto",
]

Beyond: TypeAlias = Callable[[Any, str], str | None]
Declared: TypeAlias = "gymnasium.Space[Any] | JsonSchema | ToolList | Mapping[str, Any] | space_pb2.Space"


def codec(space: Declared | None, *, action: bool = False) -> Codec:
    """How the values of ``space`` travel; with None, any value does.

    ``action`` is for the actions of an environment: what obviously means an array of the space (nested lists,
    another dtype that loses nothing but floating-point precision) is made one, and decoded arrays are copies that
    the environment may write to. Otherwise values travel as they are, and decoded arrays are read-only views.

    Raises:
        TypeError: the space has no form in the protocol.
        MalformedSpace: no space fits the message.
    """
    if space is None:
        return ANYTHING
    message = to_proto(space)
    check, beyond = build_check(message), _beyond(space)
    return build(message, check if beyond is None else _narrowed(check, beyond), action)


def is_authors_own(space: Any) -> bool:
    """Whether a space may say more of its values than its message does: its class, or that of one inside of it, is not
    one of Gymnasium's."""
    return _beyond(space) is not None


def describe(space: Declared | None) -> str:
    """One line for people. Raises as ``codec`` does."""
    return "any value" if space is None else describe_message(to_proto(space))


def _narrowed(check: Callable[[Any], str | None], beyond: Beyond) -> Callable[[Any], str | None]:
    def narrowed(value: Any) -> str | None:
        problem = check(value)
        return problem if problem is not None else beyond(value, "")

    return narrowed


def _beyond(space: Any) -> Beyond | None:
    """What subclasses of Gymnasium's spaces, this one or some inside of it, say beyond the message, of a value that
    fits the message and of the place where it is; None where there are none. Stacks and graphs are not looked into."""
    if type(space).__module__.partition(".")[0] != "gymnasium":
        return _belongs(space.contains, repr(space)) if hasattr(space, "contains") else None
    parts = getattr(space, "spaces", ())
    named = parts.items() if isinstance(parts, Mapping) else enumerate(parts)
    inside = {name: beyond for name, part in named if (beyond := _beyond(part)) is not None}
    kind = type(space).__name__
    if kind == "OneOf" and inside:
        return lambda value, place: _first(
            [inside[value[0]](value[1], f"{place}[1]")] if value[0] in inside else ()
        )
    if kind == "Sequence" and not space.stack and (each := _beyond(space.feature_space)) is not None:
        return lambda value, place: _first(each(item, f"{place}[{at}]") for at, item in enumerate(value))
    if not inside:
        return None
    return lambda value, place: _first(each(value[at], f"{place}[{at!r}]") for at, each in inside.items())


def _belongs(contains: Callable[[Any], bool], name: str) -> Beyond:
    def belongs(value: Any, place: str) -> str | None:
        if contains(value):
            return None
        return f"at {place}: expected an element of {name}" if place else f"expected an element of {name}"

    return belongs


def _first(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


# ---- to messages


def to_proto(space: Declared) -> space_pb2.Space:
    """The message of a space.

    Raises:
        TypeError: it has no form in the protocol: a kind of its own, or names that are not text.
        ValueError: a JSON Schema is not valid.
    """
    if isinstance(space, space_pb2.Space):
        return space
    if isinstance(space, JsonSchema):
        return space_pb2.Space(json_schema=space_pb2.JsonSchemaSpace(schema=spell_schema(space.schema)))
    if isinstance(space, ToolList):
        return space_pb2.Space(tools=_tools(space))
    gymnasium_spaces = sys.modules.get("gymnasium.spaces")  # nobody has made one of its spaces without it
    if gymnasium_spaces is not None:
        for name, write in _WRITERS.items():
            if isinstance(space, getattr(gymnasium_spaces, name)):
                return write(space)
    if isinstance(space, Mapping):
        return to_proto(JsonSchema(space))
    raise TypeError(
        f"{type(space).__module__}.{type(space).__qualname__} has no form in the protocol; spaces are Gymnasium's "
        f"{', '.join(_WRITERS)}, and JsonSchema and ToolList"
    )


def _tools(space: ToolList) -> space_pb2.ToolListSpace:
    tools = [
        space_pb2.Tool(
            name=tool.name,
            description=tool.description,
            parameters=spell_schema(dict(tool.parameters)) if tool.parameters else "",
        )
        for tool in space.tools
    ]
    return space_pb2.ToolListSpace(
        tools=tools, allow_text=space.allow_text, allow_several=space.allow_several
    )


def _box(space: Any) -> space_pb2.Space:
    box = space_pb2.BoxSpace(
        dtype=_code(space.dtype), shape=space.shape, low=bound_tensor(space.low), high=bound_tensor(space.high)
    )  # fmt: skip
    if space.dtype.kind in "iu":
        if not np.all(space.bounded_below):
            box.unbounded_below.CopyFrom(bound_tensor(~space.bounded_below))
        if not np.all(space.bounded_above):
            box.unbounded_above.CopyFrom(bound_tensor(~space.bounded_above))
    return space_pb2.Space(box=box)


def _discrete(space: Any) -> space_pb2.Space:
    dtype = _code(space.dtype)
    return space_pb2.Space(
        discrete=space_pb2.DiscreteSpace(n=int(space.n), start=int(space.start), dtype=dtype)
    )


def _multi_discrete(space: Any) -> space_pb2.Space:
    message = space_pb2.MultiDiscreteSpace(n=value_to_proto(space.nvec).tensor)
    if np.any(space.start):
        message.start.CopyFrom(value_to_proto(space.start).tensor)
    return space_pb2.Space(multi_discrete=message)


def _multi_binary(space: Any) -> space_pb2.Space:
    flat = isinstance(space.n, int)
    return space_pb2.Space(multi_binary=space_pb2.MultiBinarySpace(shape=space.shape, flat=flat))


def _text(space: Any) -> space_pb2.Space:
    return space_pb2.Space(
        text=space_pb2.TextSpace(
            min_length=space.min_length, max_length=space.max_length, characters="".join(space.character_list)
        )
    )


def _dict(space: Any) -> space_pb2.Space:
    entries = []
    for name, inner in space.spaces.items():
        if not isinstance(name, str):
            raise TypeError(f"the names of a Dict space are text, got {name!r} ({type(name).__name__})")
        entries.append(space_pb2.NamedSpace(name=name, space=to_proto(inner)))
    return space_pb2.Space(dict=space_pb2.DictSpace(entries=entries))


def _tuple(space: Any) -> space_pb2.Space:
    return space_pb2.Space(tuple=space_pb2.TupleSpace(spaces=map(to_proto, space.spaces)))


def _sequence(space: Any) -> space_pb2.Space:
    element = to_proto(space.feature_space)
    return space_pb2.Space(sequence=space_pb2.SequenceSpace(element=element, stacked=space.stack))


def _one_of(space: Any) -> space_pb2.Space:
    return space_pb2.Space(one_of=space_pb2.OneOfSpace(spaces=map(to_proto, space.spaces)))


def _graph(space: Any) -> space_pb2.Space:
    edge = None if space.edge_space is None else to_proto(space.edge_space)
    return space_pb2.Space(graph=space_pb2.GraphSpace(node=to_proto(space.node_space), edge=edge))


def _code(dtype: Any) -> Any:
    code = CODES.get(dtype.newbyteorder("<"))
    if code is None:
        raise TypeError(f"numpy's dtype {dtype} has no form in the protocol")
    return code


_WRITERS: dict[str, Callable[[Any], space_pb2.Space]] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Text": _text,
    "Dict": _dict,
    "Tuple": _tuple,
    "Sequence": _sequence,
    "OneOf": _one_of,
    "Graph": _graph,
}


# ---- from messages


def from_proto(message: space_pb2.Space) -> gymnasium.Space[Any] | JsonSchema | ToolList:
    """The space of a message.

    Raises:
        MalformedSpace: no space fits it.
        MissingExtra: it is one of Gymnasium's, which is not installed.
    """
    kind = message.WhichOneof("kind")
    if kind == "json_schema":
        return JsonSchema(read_schema(message.json_schema.schema))
    if kind == "tools":
        return _read_tools(message.tools)
    if kind is None:
        raise MalformedSpace("the space is of an unknown kind")
    try:
        from gymnasium import spaces as gymnasium_spaces
    except ImportError:
        raise MissingExtra("Gymnasium's spaces need gymnasium: pip install 'envmesh[mesh]'") from None
    try:
        return _read(message, kind, gymnasium_spaces)
    except (TypeError, ValueError, KeyError, OverflowError, AssertionError) as error:
        raise MalformedSpace(f"no {kind} space fits the message: {error}") from error


def _read_tools(message: space_pb2.ToolListSpace) -> ToolList:
    try:
        tools = tuple(
            Tool(tool.name, tool.description, dict(read_schema(tool.parameters)) if tool.parameters else {})
            for tool in message.tools
        )
        return ToolList(tools, message.allow_text, message.allow_several)
    except (TypeError, ValueError) as error:
        raise MalformedSpace(f"no tool list fits the message: {error}") from None


def _read(message: space_pb2.Space, kind: str, g: Any) -> gymnasium.Space[Any]:
    """One of Gymnasium's spaces, out of its module ``g``."""
    made: gymnasium.Space[Any]
    form = array_form(message)
    if form is not None and kind == "box":
        made = _read_box(message.box, form, g)
    elif form is not None and kind == "multi_discrete":
        made = g.MultiDiscrete(tensor_array(message.multi_discrete.n), form.dtype, start=form.low)
    elif form is not None:
        made = g.MultiBinary(form.shape[0] if message.multi_binary.flat else list(form.shape))
    elif kind == "discrete":
        discrete = message.discrete
        dtype = DTYPES[discrete.dtype].type
        chosen = {} if dtype is np.int64 else {"dtype": dtype}  # which Gymnasium 1.0 does not offer
        made = g.Discrete(discrete.n, start=discrete.start, **chosen)
    elif kind == "text":
        text = message.text
        made = g.Text(text.max_length, min_length=text.min_length, charset=text.characters)
    elif kind == "dict":
        entries = [(entry.name, from_proto(entry.space)) for entry in message.dict.entries]
        if len(dict(entries)) != len(entries):
            raise MalformedSpace("a dict space has the same name twice")
        made = g.Dict(entries)
    elif kind == "tuple":
        made = g.Tuple([from_proto(space) for space in message.tuple.spaces])
    elif kind == "sequence":
        made = g.Sequence(from_proto(message.sequence.element), stack=message.sequence.stacked)
    elif kind == "one_of":
        made = g.OneOf([from_proto(space) for space in message.one_of.spaces])
    else:
        edge = from_proto(message.graph.edge) if message.graph.HasField("edge") else None
        made = g.Graph(from_proto(message.graph.node), edge)
    return made


def _read_box(box: space_pb2.BoxSpace, form: ArrayForm, g: Any) -> Any:
    low, high = (np.broadcast_to(bound, form.shape).copy() for bound in (form.low, form.high))
    made = g.Box(low, high, form.shape, form.dtype.type)
    if form.dtype.kind in "iu":  # a Box made from its own bounds would be bounded everywhere
        made.bounded_below = _bounded(box.unbounded_below, form)
        made.bounded_above = _bounded(box.unbounded_above, form)
    return made


def _bounded(unbounded: value_pb2.Tensor, form: ArrayForm) -> Array:
    where = bound_from(unbounded, np.dtype(np.bool_), form.shape) if unbounded.dtype else np.array(False)
    return ~np.broadcast_to(where, form.shape)
