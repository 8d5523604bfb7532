"""Values of a recording as JSON: readable where that loses nothing, the canonical bytes in base64 where it would.

Text, numbers, truth values, null, lists and maps are the JSON of the same kind. What JSON has no word for is an object
with one key that begins with ``$``:

| form | what it is |
|---|---|
| ``{"$json": …}`` | a ``Json`` document |
| ``{"$bytes": base64}`` | bytes |
| ``{"$tensor": dtype, "data": nested lists}`` | a small array |
| ``{"$agents": …}`` | an outcome of several agents, in protobuf's JSON |
| ``{"$value": base64}`` | anything else: the canonical bytes themselves |

A form is used only after its text was read back and gave the same bytes, so a recording replays to the same digests.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from envmesh import values
from envmesh.space_codec import ANYTHING, Codec
from envmesh.v1 import environment_pb2 as pb

__all__ = ["agents_to_json", "payload_from_json", "payload_to_json"]

READABLE_ELEMENTS = 64
"""Arrays of more elements are written as bytes."""


_spell = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class _Unreadable(Exception):
    """The value has no readable form."""


def payload_to_json(payload: bytes, codec: Codec = ANYTHING) -> Any:
    """The JSON form of a serialized Value, which ``codec`` wrote."""
    try:
        value = codec.decode(payload)
        if type(value) in (str, int) and codec.encode(value) == payload:
            return value
        form = {"$json": value} if payload[:1] == b"\x12" else json.loads(_spell(_form(value)))
        if payload_from_json(form, codec) == payload:
            return form
    except (_Unreadable, ValueError, TypeError, RecursionError):
        pass
    return _raw(payload)


def agents_to_json(payload: bytes) -> Any:
    """The JSON form of a serialized AgentOutcomes."""
    try:
        message = pb.AgentOutcomes.FromString(payload)
        form = {"$agents": json_format.MessageToDict(message, preserving_proto_field_name=True)}
        if payload_from_json(form) == payload:
            return form
    except (DecodeError, ValueError, json_format.Error):
        pass
    return _raw(payload)


def payload_from_json(form: Any, codec: Codec = ANYTHING) -> bytes:
    """The bytes that a JSON form stands for.

    Raises:
        ValueError: it is no such form.
    """
    if isinstance(form, dict) and len(form) == 1:
        ((name, content),) = form.items()
        if name == "$value":
            return _unspelled(content)
        if name == "$json":
            return values.encode(values.Json(content))
        if name == "$agents":
            try:
                message = json_format.ParseDict(content, pb.AgentOutcomes())
            except json_format.ParseError as error:
                raise ValueError(f"no outcome of several agents: {error}") from None
            return message.SerializeToString(deterministic=True)
    return codec.encode(_value(form))


def _form(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):  # first, for a np.float64 is a float as well
        return _tensor_form(np.asarray(value))
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Unreadable
        return value
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) or key.startswith("$") for key in value):
            raise _Unreadable
        return {key: _form(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_form(item) for item in value]
    raise _Unreadable


def _tensor_form(array: np.ndarray[Any, Any]) -> Any:
    if array.size > READABLE_ELEMENTS or array.dtype.kind not in "biuf" or array.dtype == np.longdouble:
        raise _Unreadable
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _Unreadable
    return {"$tensor": array.dtype.name, "data": array.tolist()}


def _value(form: Any) -> Any:
    if isinstance(form, dict):
        if "$bytes" in form:
            return _unspelled(form["$bytes"])
        if "$tensor" in form:
            try:
                return np.array(form["data"], np.dtype(form["$tensor"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"no tensor: {error}") from None
        if any(key.startswith("$") for key in form):
            raise ValueError(f"no value has the form {sorted(form)}")
        return {key: _value(item) for key, item in form.items()}
    if isinstance(form, list):
        return [_value(item) for item in form]
    return form


def _raw(payload: bytes) -> dict[str, str]:
    return {"$value": base64.b64encode(payload).decode()}


def _unspelled(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("base64 is text")
    return base64.b64decode(text, validate=True)
