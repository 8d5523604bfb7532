"""Python values to the canonical bytes of a ``Value``, and back.

Observations, actions and infos travel as bytes that already are a serialized ``envmesh.v1.Value``, so that whoever
forwards, stores, compares or digests them need not look inside. The codec is written by hand because every step
passes through it; the tests hold it to protobuf's own deterministic serialization, byte for byte.

| Python | kind | comes back as |
|---|---|---|
| ``str`` | text | ``str`` |
| ``bytes``, ``bytearray``, ``memoryview`` | blob | ``bytes`` |
| ``Blob`` | blob | ``Blob``; ``bytes`` where the media type is the default one |
| ``Json`` | json | the plain document: dicts, lists, texts, numbers, truth values, None |
| ``bool``, ``int``, ``float``, ``None`` | boolean, integer (json beyond 64 bits), real, null | the same |
| ``dict`` and other mappings with text keys | map | ``dict`` with its keys in order |
| ``list``, ``tuple`` | list | ``list`` |
| numpy arrays and scalars, numeric or bool | tensor | read-only array without a copy; of rank 0, numpy scalar |
"""

from __future__ import annotations

from typing import Any

from envmesh.decoding import TensorHint, decode
from envmesh.encoding import encode
from envmesh.v1 import value_pb2
from envmesh.wire import DEFAULT_MEDIA_TYPE, MAX_DEPTH, MAX_ITEMS, Blob, Json, MalformedValue

__all__ = [
    "DEFAULT_MEDIA_TYPE",
    "MAX_DEPTH",
    "MAX_ITEMS",
    "Blob",
    "Json",
    "MalformedValue",
    "TensorHint",
    "decode",
    "encode",
    "from_proto",
    "to_proto",
]


def to_proto(value: Any) -> value_pb2.Value:
    """``value`` as a message. Raises as ``encode`` does."""
    return value_pb2.Value.FromString(encode(value))


def from_proto(message: value_pb2.Value) -> Any:
    """The Python value of a message. Raises as ``decode`` does."""
    return decode(message.SerializeToString(deterministic=True))
