"""Numpy arrays and scalars as the ``tensor`` of a Value, and back.

The bytes before an array's elements depend on nothing but its dtype and shape, of which a process meets few; both
directions remember them, so that a known array costs a look-up and a copy on the way out, and a look-up and no
copy on the way in.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias, cast

import numpy as np

from envmesh.v1 import value_pb2
from envmesh.wire import MalformedValue, read_varint, section, varint

__all__ = [
    "CODES",
    "DTYPES",
    "MAX_RANK",
    "Array",
    "DType",
    "Shape",
    "array_bytes",
    "decode_tensor",
    "encode_scalar",
    "encode_tensor",
    "view",
]

Array: TypeAlias = np.ndarray[Any, Any]
DType: TypeAlias = np.dtype[Any]
Shape: TypeAlias = tuple[int, ...]

MAX_RANK = 32
"""Dimensions of a tensor, at most; numpy 1 allows no more."""

_NAMES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", "longdouble", "clongdouble"),
)


def _little_endian(dtype: DType) -> DType:
    """``dtype`` itself where it is little-endian already: numpy is quickest with its own instances."""
    return dtype if dtype == dtype.newbyteorder("<") else dtype.newbyteorder("<")


DTYPES: dict[int, DType] = {
    value_pb2.Dtype.Value(f"DTYPE_{name.upper()}"): _little_endian(np.dtype(name)) for name in _NAMES
}
"""The dtypes a tensor may have, by their numbers in the protocol; all little-endian."""

CODES: dict[DType, int] = {}
"""The inverse of ``DTYPES``. Where the platform's long double is a double, it travels as one."""
for _code, _dtype in DTYPES.items():
    CODES.setdefault(_dtype, _code)

_BOOL = np.dtype(np.bool_)
_EXTENDED = (np.dtype(np.longdouble), np.dtype(np.clongdouble))
_PADDED = np.finfo(np.longdouble).nmant == 63  # x87: 80 bits, stored in 12 or 16 bytes
_REMEMBERED = 4096

# Header, size of the whole, size of the header, dtype, shape; whether numpy takes the shape and the elements need
# no look. A tuple and not a class, for it is unpacked at every step.
_Known: TypeAlias = tuple[bytes, int, int, DType, Shape, bool]

_headers: dict[tuple[DType, Shape], bytes] = {}
_scalar_headers: dict[type, bytes] = {}
_seen: dict[bytes, _Known] = {}


def encode_tensor(array: Array | np.generic) -> bytes:
    """The canonical bytes of the Value that holds ``array``.

    Raises:
        TypeError: its dtype is none of ``DTYPES``, in any byte order.
        ValueError: it has more than ``MAX_RANK`` dimensions.
    """
    header = _headers.get((array.dtype, array.shape))
    if header is None:
        return _encode_rare(array)
    try:
        return b"".join((header, cast(bytes, array)))  # any buffer will do, and is copied once
    except TypeError:  # its elements do not lie in row-major order
        return header + array.tobytes()


def encode_scalar(scalar: np.generic) -> bytes:
    """As ``encode_tensor``, for a numpy scalar."""
    header = _scalar_headers.get(type(scalar))
    if header is None:
        return encode_tensor(scalar)
    return b"".join((header, cast(bytes, scalar)))


def array_bytes(array: Array | np.generic) -> bytes:
    """The elements of ``array``, whose dtype is one of ``DTYPES``: row-major, little-endian, canonical."""
    raw: bytes = array.tobytes()
    if array.dtype == _BOOL:
        if _holds_other_than_bits(raw, 0):
            return np.not_equal(np.frombuffer(raw, np.uint8), 0).tobytes()
    elif _PADDED and array.dtype in _EXTENDED:
        parts = np.frombuffer(bytearray(raw), np.uint8).reshape(-1, _EXTENDED[0].itemsize)
        parts[:, 10:] = 0
        return parts.tobytes()
    return raw


def decode_tensor(data: bytes, start: int, end: int) -> Array | np.generic:
    """The array in the Value at ``data[start:end]``, as a read-only view of ``data``; of rank 0, a numpy scalar.

    Raises:
        MalformedValue: it is no canonically ordered tensor, or announces other data than it has.
        IndexError: the data ends within it.
    """
    known = _seen.get(data[start : start + 7])
    if known is None or known[1] != end - start or data[start : start + known[2]] != known[0]:
        known = _read_header(data, start, end)
    _, _, size, dtype, shape, plain = known
    if plain:
        return np.ndarray(shape, dtype, data, start + size)
    return view(data, start + size, dtype, shape)


def view(data: bytes, offset: int, dtype: DType, shape: Shape) -> Array | np.generic:
    """The elements from ``offset`` on, which are there, as a read-only array; of rank 0, as a numpy scalar.

    Raises:
        MalformedValue: numpy cannot have such a shape, or a truth value is neither 0 nor 1.
    """
    if dtype == _BOOL and _holds_other_than_bits(data, offset, math.prod(shape)):
        raise MalformedValue("an element of a bool tensor is neither 0 nor 1")
    try:
        array: Array = np.ndarray(shape, dtype, data, offset)
    except (ValueError, OverflowError) as error:
        raise MalformedValue(f"no array has the shape {shape}: {error}") from None
    return array if shape else array[()]


def _encode_rare(array: Array | np.generic) -> bytes:
    """As ``encode_tensor``, for a dtype and shape not remembered: new ones, and those that need care."""
    dtype = array.dtype
    if dtype not in CODES:
        dtype = dtype.newbyteorder("<")
        if dtype not in CODES:
            raise TypeError(f"numpy's dtype {array.dtype} has no form in the protocol")
        array = array.astype(dtype)
    if array.ndim > MAX_RANK:
        raise ValueError(f"a tensor has at most {MAX_RANK} dimensions, got {array.ndim}")
    header = _spell_header(dtype, array.shape)
    if dtype == _BOOL or dtype in _EXTENDED:
        return header + array_bytes(array)
    if len(_headers) >= _REMEMBERED:
        _headers.clear()
    _headers[dtype, array.shape] = header
    return header + array.tobytes()


def _spell_header(dtype: DType, shape: Shape) -> bytes:
    size = dtype.itemsize * math.prod(shape)
    inner = b"\x08" + varint(CODES[dtype])
    if shape:
        lengths = b"".join(map(varint, shape))
        inner += b"\x12" + varint(len(lengths)) + lengths
    if size:
        inner += b"\x1a" + varint(size)
    return b"\x1a" + varint(len(inner) + size) + inner


for _dtype in CODES:
    if _dtype != _BOOL and _dtype not in _EXTENDED:
        _scalar_headers[_dtype.type] = _spell_header(_dtype, ())


def _read_header(data: bytes, start: int, end: int) -> _Known:
    """What the header says of the elements; remembered, once they are found to be what it announces."""
    position, stop = section(data, start + 1, end)
    if stop != end or data[position] != 0x08:
        raise MalformedValue("a tensor does not begin with its dtype")
    code, position = read_varint(data, position + 1)
    dtype = DTYPES.get(code)
    if dtype is None:
        raise MalformedValue(f"{code} is not the number of a dtype")
    shape: list[int] = []
    if position < end and data[position] == 0x12:
        position, stop = section(data, position + 1, end)
        while position < stop:
            length, position = read_varint(data, position)
            shape.append(length)
            if len(shape) > MAX_RANK:
                raise MalformedValue(f"a tensor has more than {MAX_RANK} dimensions")
        if position != stop:
            raise MalformedValue("a tensor's shape ends within a number")
    size = 0
    if position < end and data[position] == 0x1A:
        position, stop = section(data, position + 1, end)
        size = stop - position
        if stop != end:
            raise MalformedValue("something follows a tensor's data")
    elif position != end:
        raise MalformedValue("a tensor has an unknown field")
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise MalformedValue(f"a tensor of {dtype} and shape {tuple(shape)} has {expected} bytes, not {size}")
    view(data, position, dtype, tuple(shape))
    plain = dtype != _BOOL and len(shape) > 0
    known = (data[start:position], end - start, position - start, dtype, tuple(shape), plain)
    if len(_seen) >= _REMEMBERED:
        _seen.clear()
    _seen[data[start : start + 7]] = known
    return known


def _holds_other_than_bits(data: bytes, offset: int, count: int | None = None) -> bool:
    """Whether one of ``count`` bytes (None: all) from ``offset`` on is neither 0 nor 1."""
    stop = len(data) if count is None else offset + count
    if stop - offset <= 4096:
        return bool(data[offset:stop].translate(None, b"\x00\x01"))
    return bool(np.frombuffer(data, np.uint8, stop - offset, offset).max() > 1)
