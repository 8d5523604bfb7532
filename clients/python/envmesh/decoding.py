"""Bytes to Python values; ``envmesh.values`` is where to import it from and says what becomes what.

The parser reads the canonical form and only that. What it refuses is given to protobuf, whose parser takes fields in
any order, and read again as protobuf writes it: peers that are not quite canonical are so understood, and nothing
but the common case costs anything here.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any, NoReturn, Protocol

from google.protobuf.message import DecodeError

from envmesh.tensors import decode_tensor, view
from envmesh.v1 import value_pb2
from envmesh.wire import (
    DEFAULT_MEDIA_TYPE,
    MANY_BYTES,
    MAX_DEPTH,
    TOO_MANY,
    Blob,
    MalformedValue,
    has_too_many_items,
    read_varint,
    section,
)

__all__ = ["TensorHint", "decode"]


class TensorHint(Protocol):
    """What ``decode`` needs to know of a space to read ``Value.packed``; Box and its like have it."""

    @property
    def dtype(self) -> Any:
        """The dtype of the elements."""

    @property
    def shape(self) -> Any:
        """The length of each dimension."""


_REAL = struct.Struct("<d")
_TOO_DEEP = f"maps and lists are nested deeper than {MAX_DEPTH}"


def decode(data: bytes, *, space_hint: TensorHint | None = None) -> Any:
    """The Python value of a serialized ``Value``. Arrays are read-only views of ``data``, and keep it alive.

    ``space_hint`` tells dtype and shape of a ``packed`` value, which is refused without it.

    Raises:
        MalformedValue: the bytes are not a Value, or not a valid one.
    """
    if not data:
        return None
    kind = data[0]
    size = len(data) - 2
    if size >= MANY_BYTES:
        _expect(not has_too_many_items(data), TOO_MANY)
    try:
        if kind == 0x0A and 0 <= size < 128 and data[1] == size:
            return data[2:].decode()
        if kind == 0x1A:
            return decode_tensor(data, 0, size + 2)
        if kind == 0x22 and 2 < size < 128 and data[1] == size and data[2] == 0x12 and data[3] == size - 2:
            return data[4:]
        return _value(data, 0, size + 2, 0, space_hint)
    except IndexError:
        reason = "the data ends too soon"
    except UnicodeDecodeError:
        reason = "text is not UTF-8"
    except MalformedValue as error:
        reason = str(error)
    return _decode_reordered(data, space_hint, reason)


def _decode_reordered(data: bytes, hint: TensorHint | None, reason: str) -> Any:
    """Decode what is not canonical, and was refused for ``reason``, if protobuf finds that it is a Value."""
    try:
        canonical = value_pb2.Value.FromString(data).SerializeToString(deterministic=True)
        if canonical != data and canonical:
            _expect(len(canonical) < MANY_BYTES or not has_too_many_items(canonical), TOO_MANY)
            return _value(canonical, 0, len(canonical), 0, hint)
    except MalformedValue as error:
        reason = str(error)
    except (DecodeError, IndexError, UnicodeDecodeError):
        pass
    raise MalformedValue(reason) from None


def _value(data: bytes, start: int, end: int, depth: int, hint: TensorHint | None) -> Any:
    """The value at ``data[start:end]``, inside ``depth`` maps and lists."""
    if start == end:
        return None
    tag = data[start]
    if tag == 0x1A:
        return decode_tensor(data, start, end)
    if tag == 0x38:
        number, stop = read_varint(data, start + 1)
        _expect(stop == end and number < 1 << 64, "an integer is not one number of 64 bits")
        return number >> 1 ^ -(number & 1)
    if tag == 0x41:
        _expect(end - start == 9, "a real is not 8 bytes")
        return _REAL.unpack_from(data, start + 1)[0]
    if tag == 0x48:
        _expect(end - start == 2 and data[start + 1] < 2, "a boolean is neither 0 nor 1")
        return data[start + 1] == 1
    begin, stop = section(data, start + 1, end)
    _expect(stop == end, "something follows the value")
    if tag == 0x0A:
        return data[begin:end].decode()
    if tag == 0x32:
        return _list(data, begin, end, depth, hint)
    if tag == 0x2A:
        return _map(data, begin, end, depth, hint)
    if tag == 0x12:
        return _document(data[begin:end])
    if tag == 0x22:
        return _blob(data, begin, end)
    if tag == 0x52:
        return _packed(data, begin, end, hint)
    raise MalformedValue("the value is of an unknown kind")


def _list(data: bytes, position: int, end: int, depth: int, hint: TensorHint | None) -> list[Any]:
    _expect(depth < MAX_DEPTH, _TOO_DEEP)
    items = []
    while position < end:
        _expect(data[position] == 0x0A, "a list has an unknown field")
        begin, position = section(data, position + 1, end)
        items.append(_value(data, begin, position, depth + 1, hint))
    return items


def _map(data: bytes, position: int, end: int, depth: int, hint: TensorHint | None) -> dict[str, Any]:
    _expect(depth < MAX_DEPTH, _TOO_DEEP)
    entries: dict[str, Any] = {}
    while position < end:
        _expect(data[position] == 0x0A, "a map has an unknown field")
        begin, position = section(data, position + 1, end)
        key, item = "", None
        if begin < position and data[begin] == 0x0A:
            begin, stop = section(data, begin + 1, position)
            key = data[begin:stop].decode()
            begin = stop
        if begin < position:
            _expect(data[begin] == 0x12, "a map's entry has an unknown field")
            begin, stop = section(data, begin + 1, position)
            _expect(stop == position, "something follows the value of a map's entry")
            item = _value(data, begin, stop, depth + 1, hint)
        _expect(key not in entries, "a map has the same key twice")
        entries[key] = item
    return entries


def _blob(data: bytes, position: int, end: int) -> bytes | Blob:
    media_type, content = "", b""
    if position < end and data[position] == 0x0A:
        begin, position = section(data, position + 1, end)
        media_type = data[begin:position].decode()
    if position < end and data[position] == 0x12:
        begin, position = section(data, position + 1, end)
        content = data[begin:position]
    _expect(position == end, "a blob has an unknown field")
    return content if media_type in ("", DEFAULT_MEDIA_TYPE) else Blob(content, media_type)


def _packed(data: bytes, begin: int, end: int, hint: TensorHint | None) -> Any:
    if hint is None:
        raise MalformedValue("a packed tensor came where no space says its dtype and shape")
    expected = math.prod(hint.shape) * hint.dtype.itemsize
    _expect(
        end - begin == expected, f"a packed tensor has {end - begin} bytes where its space needs {expected}"
    )
    return view(data, begin, hint.dtype, hint.shape)


def _document(raw: bytes) -> Any:
    """The document of ``raw``, if it is JSON as RFC 8259 has it and could be sent again."""
    try:
        text = raw.decode()
        document = _JSON.decode(text)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode()  # escapes can spell unpaired surrogates
    except RecursionError:
        raise MalformedValue("a JSON document is nested too deeply") from None
    except ValueError as error:
        raise MalformedValue(f"json is no JSON document: {error}") from None
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is refused")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is beyond the range of a double")
    return number


_JSON = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
"""Made once: ``json.loads`` would make one for each document, which takes twice as long as to read a small one."""


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise MalformedValue(otherwise)
