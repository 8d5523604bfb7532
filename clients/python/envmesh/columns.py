"""Whole columns of values at once: what the fast paths of client and host encode and decode with.

Frames hold hundreds of values of one kind, and most of what a value costs in Python is the call. Short text and short
bytes, the common cases of agents, are recognised for the column as a whole; everything else goes through the codec one
by one. Results and errors are those of the codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from envmesh import values

__all__ = ["decoder_of", "encoder_of"]

_SHORT = 124  # so that lengths take one byte of varint, the nested one too
_TEXT_HEADS = [bytes((0x0A, size)) for size in range(_SHORT)]
_BLOB_HEADS = [bytes((0x22, size + 2, 0x12, size)) for size in range(_SHORT)]
_TEXT, _BLOB = 0x0A, 0x22


def encoder_of(encode: Callable[[Any], bytes]) -> Callable[[Sequence[Any]], list[bytes]]:
    """A function that encodes a column as ``encode`` encodes one value."""
    if encode is not values.encode:
        return lambda column: list(map(encode, column))
    return _encode_column


def decoder_of(decode: Callable[[bytes], Any]) -> Callable[[Sequence[bytes]], list[Any]]:
    """A function that decodes a column as ``decode`` decodes one value."""
    if decode is not values.decode:
        return lambda column: list(map(decode, column))
    return _decode_column


def _encode_column(column: Sequence[Any]) -> list[bytes]:
    kinds = set(map(type, column))
    if kinds == {bytes}:
        sizes = set(map(len, column))
        if len(sizes) == 1 and 0 < (size := sizes.pop()) < _SHORT:
            head = _BLOB_HEADS[size]
            return [head + value for value in column]
    elif kinds == {str}:
        raws = [value.encode() for value in column]
        if max(map(len, raws)) < _SHORT:
            heads = _TEXT_HEADS
            return [heads[len(raw)] + raw for raw in raws]
    return list(map(values.encode, column))


def _decode_column(column: Sequence[bytes]) -> list[Any]:
    first = column[0]
    size = len(first)
    if size > 4 and first[0] == _BLOB and size < _SHORT + 4 and first[:4] == _BLOB_HEADS[size - 4]:
        head = first[:4]
        if set(map(len, column)) == {size}:
            joined = b"".join(column)
            if all(joined[place::size] == head[place : place + 1] * len(column) for place in range(4)):
                return [data[4:] for data in column]
    elif size > 1 and first[0] == _TEXT:
        try:
            texts = [
                data[2:].decode() for data in column if data[0] == _TEXT and data[1] == len(data) - 2 < _SHORT
            ]
        except (IndexError, UnicodeDecodeError):
            texts = []
        if len(texts) == len(column):
            return texts
    return list(map(values.decode, column))
