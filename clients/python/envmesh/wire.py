"""What both directions of the codec of values stand on: bounds, the types of our own, and protobuf's varints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "DEFAULT_MEDIA_TYPE",
    "MANY_BYTES",
    "MAX_DEPTH",
    "MAX_ITEMS",
    "TOO_MANY",
    "Blob",
    "Json",
    "MalformedValue",
    "has_too_many_items",
    "read_varint",
    "section",
    "varint",
]

MAX_DEPTH = 32
"""Maps and lists nest so deep at most: with it every value stays within the 100 nested messages that protobuf's
parsers accept by default, in every language. What is deeper travels as ``Json``."""

MAX_ITEMS = 1_000_000
"""Values in lists and entries in maps, at all depths, that one value has at most. Each is an object to whoever decodes
it: as many as fit into the bound on bytes would hold an event loop for longer than its peers wait for signs of life."""

MANY_BYTES = 2 * MAX_ITEMS
"""What has fewer bytes cannot have too many items: each takes two."""

TOO_MANY = (
    f"more than {MAX_ITEMS:,} items in its maps and lists; send numbers as an array, and a document as Json"
)

DEFAULT_MEDIA_TYPE = "application/octet-stream"
"""The media type of plain bytes; never spelled out on the wire."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Opaque bytes with a media type (RFC 6838), such as ``image/png``."""

    data: bytes
    media_type: str = DEFAULT_MEDIA_TYPE


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON document, of what Python's ``json`` module takes, to travel as json rather than as a map or list."""

    document: Any


class MalformedValue(ValueError):
    """The bytes are not a value, or not one of the space they were sent for. The message says what is wrong."""


def _spell(number: int) -> bytes:
    spelled = bytearray()
    while number > 0x7F:
        spelled.append(number & 0x7F | 0x80)
        number >>= 7
    spelled.append(number)
    return bytes(spelled)


_SHORT = tuple(_spell(number) for number in range(2048))


def varint(number: int) -> bytes:
    """``number`` (0 or more) as a base-128 varint."""
    return _SHORT[number] if number < 2048 else _spell(number)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The varint at ``position``, and the position after it.

    Raises:
        MalformedValue: it is longer than 10 bytes.
        IndexError: the data ends within it.
    """
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    number = byte & 0x7F
    for shift in range(7, 70, 7):
        position += 1
        byte = data[position]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position + 1
    raise MalformedValue("a number is spelled with more than 10 bytes")


def section(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Start and stop of the length-delimited section whose length is at ``position``; it lies before ``end``.

    Raises:
        MalformedValue: it reaches past ``end``.
        IndexError: the data ends within the length.
    """
    size, start = read_varint(data, position)
    if start + size > end:
        raise MalformedValue(f"{size} bytes are announced and {max(end - start, 0)} are there")
    return start, start + size


_LIST, _MAP, _FIRST, _SECOND = 0x32, 0x2A, 0x0A, 0x12


def has_too_many_items(data: bytes) -> bool:
    """Whether a value in its canonical form has more than ``MAX_ITEMS``. What is malformed has not, up to there."""
    if data[0] not in (_LIST, _MAP) or data.count(_FIRST) <= MAX_ITEMS:  # with that byte each of them begins
        return False
    count, inside = 0, [(0, len(data))]
    try:
        while inside:
            start, end = inside.pop()
            kind = data[start]
            position, stop = section(data, start + 1, end)
            while position < stop:
                begin, position = section(data, position + 1, stop)
                count += 1
                if count > MAX_ITEMS:
                    return True
                if kind == _MAP:
                    if begin < position and data[begin] == _FIRST:
                        _, begin = section(data, begin + 1, position)
                    if begin == position or data[begin] != _SECOND:
                        continue
                    begin, _ = section(data, begin + 1, position)
                if begin < position and data[begin] in (_LIST, _MAP):
                    inside.append((begin, position))
    except (IndexError, MalformedValue):
        return False
    return False
