"""Python values to canonical bytes; ``envmesh.values`` is where to import it from and says what becomes what."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from envmesh.tensors import DTYPES, encode_scalar, encode_tensor
from envmesh.wire import (
    DEFAULT_MEDIA_TYPE,
    MANY_BYTES,
    MAX_DEPTH,
    TOO_MANY,
    Blob,
    Json,
    has_too_many_items,
    varint,
)

__all__ = ["encode"]


class _Refusal(Exception):
    """A value, somewhere inside the one to be encoded, that has no form in the protocol."""

    def __init__(self, kind: type[Exception], message: str) -> None:
        self.kind = kind
        self.message = message
        self.path: list[Any] = []

    def public(self) -> Exception:
        where = "".join(f"[{key!r}]" for key in reversed(self.path))
        return self.kind(f"value{where}: {self.message}")


def encode(value: Any) -> bytes:
    """The canonical serialized ``Value`` of ``value``; None gives no bytes at all.

    Raises:
        TypeError: it, or something inside it, has no form in the protocol; the message names the path to it.
        ValueError: it nests deeper than ``MAX_DEPTH`` (as a value that contains itself does), has more than
            ``MAX_ITEMS``, JSON holds NaN or an infinity, or text holds unpaired surrogates.
    """
    kind = type(value)
    try:
        if kind is str:
            raw: bytes = value.encode()
            size = len(raw)
            return (_TEXT[size] if size < _TABLE else b"\x0a" + varint(size)) + raw
        if kind is np.ndarray:
            return encode_tensor(value)
        if kind is bytes:
            raw = value
            size = len(raw)
            return (_BLOB[size] if size < _TABLE else _blob_header(size)) + raw
        encoded = _ENCODERS.get(kind, _encode_unusual)(value, 0)
        if len(encoded) >= MANY_BYTES and has_too_many_items(encoded):
            raise _Refusal(ValueError, TOO_MANY)
        return encoded
    except _Refusal as refusal:
        raise refusal.public() from None
    except (TypeError, ValueError) as error:
        raise _refusal_of(error).public() from None


def _refusal_of(error: Exception) -> _Refusal:
    if isinstance(error, UnicodeEncodeError):
        return _Refusal(ValueError, "the text holds unpaired surrogates, which UTF-8 cannot say")
    return _Refusal(TypeError if isinstance(error, TypeError) else ValueError, str(error))


def _blob_header(size: int) -> bytes:
    """What comes before ``size`` bytes in a Value of the default media type."""
    if not size:
        return b"\x22\x00"
    inner = b"\x12" + varint(size)
    return b"\x22" + varint(len(inner) + size) + inner


_TABLE = 1024
_TEXT = tuple(b"\x0a" + varint(size) for size in range(_TABLE))
_BLOB = tuple(_blob_header(size) for size in range(_TABLE))
_REAL = struct.Struct("<Bd")


def _spell_integer(value: int) -> bytes:
    return b"\x38" + varint(value << 1 if value >= 0 else (-value << 1) - 1)


_INTEGERS = {value: _spell_integer(value) for value in range(-64, 1024)}


def _encode_text(value: str, depth: int) -> bytes:
    raw = value.encode()
    size = len(raw)
    return (_TEXT[size] if size < _TABLE else b"\x0a" + varint(size)) + raw


def _encode_bytes(value: bytes, depth: int) -> bytes:
    size = len(value)
    return (_BLOB[size] if size < _TABLE else _blob_header(size)) + value


def _encode_integer(value: int, depth: int) -> bytes:
    known = _INTEGERS.get(value)
    if known is not None:
        return known
    if -(1 << 63) <= value < 1 << 63:
        return _spell_integer(value)
    return _encode_document(value)


def _encode_real(value: float, depth: int) -> bytes:
    return _REAL.pack(0x41, value)


def _encode_boolean(value: bool, depth: int) -> bytes:
    return b"\x48\x01" if value else b"\x48\x00"


def _encode_null(value: None, depth: int) -> bytes:
    return b""


def _encode_array(value: Any, depth: int) -> bytes:
    return encode_tensor(value)


def _encode_scalar(value: np.generic, depth: int) -> bytes:
    return encode_scalar(value)


def _encode_blob(value: Blob, depth: int) -> bytes:
    if not isinstance(value.media_type, str) or not isinstance(value.data, bytes | bytearray | memoryview):
        raise _Refusal(TypeError, "a Blob is made of bytes and, as text, their media type")
    data = bytes(value.data)
    if value.media_type in ("", DEFAULT_MEDIA_TYPE):
        return _encode_bytes(data, depth)
    media_type = value.media_type.encode()
    inner = b"\x0a" + varint(len(media_type)) + media_type
    if data:
        inner += b"\x12" + varint(len(data)) + data
    return b"\x22" + varint(len(inner)) + inner


def _encode_json(value: Json, depth: int) -> bytes:
    return _encode_document(value.document)


def _encode_document(document: Any) -> bytes:
    try:
        text = json.dumps(
            document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
        )
    except RecursionError:
        raise _Refusal(ValueError, "the JSON document is nested too deeply, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise _Refusal(_refusal_of(error).kind, f"no JSON document: {error}") from None
    raw = text.encode()
    return b"\x12" + varint(len(raw)) + raw


def _encode_member(key: Any, item: Any, depth: int) -> bytes:
    """Encode what stands in a map or list under ``key``, which goes into the path of a refusal."""
    try:
        return _ENCODERS.get(type(item), _encode_unusual)(item, depth)
    except _Refusal as refusal:
        refusal.path.append(key)
        raise
    except (TypeError, ValueError) as error:
        described = _refusal_of(error)
        described.path.append(key)
        raise described from None


def _encode_list(value: list[Any] | tuple[Any, ...], depth: int) -> bytes:
    if depth >= MAX_DEPTH:
        raise _Refusal(ValueError, f"nested deeper than {MAX_DEPTH} maps and lists; send it as Json")
    parts: list[bytes] = []
    for index, item in enumerate(value):
        raw = _encode_member(index, item, depth + 1)
        parts += (b"\x0a", varint(len(raw)), raw)
    inner = b"".join(parts)
    return b"".join((b"\x32", varint(len(inner)), inner))


def _encode_map(value: Mapping[str, Any], depth: int) -> bytes:
    if depth >= MAX_DEPTH:
        raise _Refusal(ValueError, f"nested deeper than {MAX_DEPTH} maps and lists; send it as Json")
    for key in value:
        if not isinstance(key, str):
            raise _Refusal(TypeError, f"the keys of a map are text, got {key!r} ({type(key).__name__})")
    parts: list[bytes] = []
    for key in sorted(value):  # by code points, which is the order of their UTF-8 bytes
        raw = _encode_member(key, value[key], depth + 1)
        name = key.encode()
        head = b"\x0a" + varint(len(name)) + name + b"\x12" if name else b"\x12"
        size = varint(len(raw))
        parts += (b"\x0a", varint(len(head) + len(size) + len(raw)), head, size, raw)
    inner = b"".join(parts)
    return b"".join((b"\x2a", varint(len(inner)), inner))


_ENCODERS: dict[type, Callable[[Any, int], bytes]] = {
    str: _encode_text,
    bytes: _encode_bytes,
    int: _encode_integer,
    float: _encode_real,
    bool: _encode_boolean,
    type(None): _encode_null,
    np.ndarray: _encode_array,
    dict: _encode_map,
    list: _encode_list,
    tuple: _encode_list,
    Blob: _encode_blob,
    Json: _encode_json,
    **{dtype.type: _encode_scalar for dtype in DTYPES.values()},
}
_KINDS: tuple[tuple[Any, Callable[[Any, int], bytes]], ...] = (
    (str, _encode_text),
    (bytes | bytearray | memoryview, lambda value, depth: _encode_bytes(bytes(value), depth)),
    (np.generic | np.ndarray, _encode_array),
    (int, lambda value, depth: _encode_integer(int(value), depth)),
    (float, _encode_real),
    (Mapping, _encode_map),
    (list | tuple, _encode_list),
)


def _encode_unusual(value: Any, depth: int) -> bytes:
    """Encode what has none of the plain types: numpy scalars, subclasses such as enums and named tuples."""
    if isinstance(value, np.ma.MaskedArray):
        raise _Refusal(
            TypeError, "a masked array has no form in the protocol; fill it, or send data and mask"
        )
    for kind, encoder in _KINDS:
        if isinstance(value, kind):
            return encoder(value, depth)
    raise _Refusal(
        TypeError,
        f"{type(value).__module__}.{type(value).__qualname__} has no form in the protocol; values are text, bytes, "
        "numbers, truth values, None, numpy arrays, dicts with text keys, lists, tuples, Blob and Json",
    )
