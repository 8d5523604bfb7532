"""Spaces and values in words, for descriptions and for the sentences of refusals."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from envmesh.space_arrays import ArrayForm, MalformedSpace, array_form
from envmesh.v1 import space_pb2

__all__ = ["a_value", "array_words", "describe_message", "integer_words", "listing", "text_words"]

_NAMES: dict[type, str] = {
    str: "text",
    bytes: "bytes",
    bool: "a truth value",
    type(None): "None",
    dict: "a map",
}
_LISTED = 8


def a_value(value: Any) -> str:
    """What ``value`` is, with the value itself where that is short."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}{'…' if len(value) > 40 else ''}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of length {len(value)}"
    if isinstance(value, bool | int | float | np.generic):
        return f"{value} ({type(value).__name__})"
    return _NAMES.get(type(value), f"a {type(value).__name__}")


def listing(items: Iterable[Any]) -> str:
    """The items, as many as fit in a line."""
    words = [repr(item) for item in items]
    rest = len(words) - _LISTED
    return ", ".join(words[:_LISTED]) + (f" and {rest} more" if rest > 0 else "") if words else "none"


def array_words(form: ArrayForm) -> str:
    """``float32 of shape (4,) within -1.0 to 1.0``, and shorter where there are no bounds."""
    words = f"{form.dtype} of shape {form.shape}"
    low, high = (_bound_words(bound) for bound in (form.low, form.high))
    if form.unlimited or form.low.size == 0 or (low, high) == ("-inf", "inf"):
        return words
    return f"{words} within {low} to {high}"


def _bound_words(bound: Any) -> str:
    if bound.ndim == 1 and bound.size <= _LISTED:  # as its own dtype writes it: 4.8, not 4.800000190734863
        return f"[{', '.join(map(str, bound))}]"
    if bound.size <= _LISTED:
        return str(bound.tolist()) if bound.ndim else str(bound[()])
    return f"({bound.min()} … {bound.max()})"


def integer_words(low: int, high: int) -> str:
    """``an integer in 0..1``."""
    return f"an integer in {low}..{high}"


def text_words(text: space_pb2.TextSpace) -> str:
    """``text of 1 to 8 characters out of 'abc'``."""
    characters = text.characters if len(text.characters) <= 80 else f"{text.characters[:77]}…"
    return f"text of {text.min_length} to {text.max_length} characters out of {characters!r}"


def describe_message(message: space_pb2.Space) -> str:
    """One line for people.

    Raises:
        MalformedSpace: no space fits the message.
    """
    form = array_form(message)
    if message.HasField("multi_binary"):
        return f"zeros and ones of shape {tuple(message.multi_binary.shape)}"
    if form is not None:
        return array_words(form)
    kind = message.WhichOneof("kind")
    if kind == "discrete":
        low = message.discrete.start
        return integer_words(low, low + message.discrete.n - 1)
    if kind == "text":
        count = len(message.text.characters)
        return f"text of {message.text.min_length} to {message.text.max_length} characters out of {count}"
    if kind == "dict":
        return (
            "{"
            + _several(f"{entry.name}: {describe_message(entry.space)}" for entry in message.dict.entries)
            + "}"
        )
    if kind == "tuple":
        return "(" + _several(map(describe_message, message.tuple.spaces)) + ")"
    if kind == "sequence":
        stacked = "a stack of" if message.sequence.stacked else "any number of"
        return f"{stacked} ({describe_message(message.sequence.element)})"
    if kind == "one_of":
        return "one of (" + " | ".join(map(describe_message, message.one_of.spaces)) + ")"
    if kind == "graph":
        edges = (
            f"edges ({describe_message(message.graph.edge)})"
            if message.graph.HasField("edge")
            else "no edges"
        )
        return f"graph with nodes ({describe_message(message.graph.node)}), {edges}"
    if kind == "json_schema":
        return "JSON: " + _schema_words(message.json_schema.schema)
    if kind == "tools":
        return _tools_words(message.tools)
    raise MalformedSpace("the space is of an unknown kind")


def _several(parts: Iterable[str]) -> str:
    listed = list(parts)
    rest = len(listed) - _LISTED
    return ", ".join(listed[:_LISTED]) + (f", … {rest} more" if rest > 0 else "")


def _schema_words(schema: str) -> str:
    """The title of a schema, or its type and the names in it."""
    document = _document(schema)
    if not isinstance(document, dict):
        return "anything" if document is True else "nothing"
    if isinstance(document.get("title"), str):
        return str(document["title"])
    names = document.get("properties")
    if isinstance(names, dict):
        return "object with " + (_several(names) or "no names")
    kind = document.get("type", "any")
    return str(kind) if isinstance(kind, str) else " or ".join(map(str, kind))


def _document(schema: str) -> Any:
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        raise MalformedSpace("a JSON Schema is no JSON document") from None


def _tools_words(tools: space_pb2.ToolListSpace) -> str:
    calls = []
    for tool in tools.tools:
        schema = _document(tool.parameters) if tool.parameters else {}
        names = schema.get("properties") if isinstance(schema, dict) else None
        calls.append(f"{tool.name}({_several(names) if isinstance(names, dict) else ''})")
    words = ("calls of " if tools.allow_several else "a call of ") + (_several(calls) or "no tool")
    return words + (", or text" if tools.allow_text else "")
