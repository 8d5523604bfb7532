"""What a client sends, made into messages: not before it is known of how many parts, for what has two bytes here
takes a hundred once it is parsed (pure)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from envmesh.errors import Refusal
from envmesh.wire import MAX_ITEMS, MalformedValue, read_varint, section

__all__ = ["MOST_FIELDS", "SECTION", "WHOLE_SIZES", "has_too_many_fields", "parse"]

MOST_FIELDS = 4 * MAX_ITEMS + 1000
"""Of a message and all within it. An entry of a map is four: itself, its key, its value, and what that holds."""

PARSERS_DEPTH = 100
"""What nests deeper, a parser refuses."""

SECTION, WHOLE_SIZES = 2, {1: 8, 5: 4}
"""Wire types: what says its own length, and those of fixed64 and fixed32."""


def parse(kind: Any, payload: bytes) -> Any:
    """A message from bytes. Raises: Refusal MALFORMED."""
    name = kind.DESCRIPTOR.name
    if has_too_many_fields(kind.DESCRIPTOR, payload):
        what = f"more than {MAX_ITEMS:,} items; send numbers as an array, and a document as Json"
        raise Refusal(f"the values of this {name} have {what}", reason="MALFORMED")
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise Refusal(f"the payload is no {name}: {error}", reason="MALFORMED") from None


def has_too_many_fields(kind: Descriptor, data: bytes, most: int = MOST_FIELDS) -> bool:
    """Whether a parser would find more than ``most`` fields in a serialized message, until it is done or refuses. In
    the parser's order: where it stops, nothing more is counted. What is in a group counts as if it were beside it."""
    if len(data) <= 2 * most:
        return False
    outside: list[tuple[Mapping[int, Descriptor], int, int]] = []
    inner, at, stop = _inner(kind), 0, len(data)
    try:
        for _ in range(most + 1):
            while at >= stop:
                if not outside:
                    return False
                inner, at, stop = outside.pop()
            tag, start = data[at], at + 1
            if tag > 0x7F:
                tag, start = read_varint(data, at)
            if tag & 7 == SECTION:
                at = start + 1 + data[start]
                if data[start] > 0x7F or at > stop:
                    start, at = section(data, start, stop)
                else:
                    start += 1
                within = inner.get(tag)
                if within is not None and start < at:
                    if len(outside) == PARSERS_DEPTH:
                        return False
                    outside.append((inner, at, stop))
                    inner, at, stop = _inner(within), start, at
            elif tag & 7 == 0:
                _, at = read_varint(data, start)
            else:
                at = start + WHOLE_SIZES.get(tag & 7, 0)
    except (IndexError, MalformedValue):
        return False
    return True


@functools.cache
def _inner(kind: Descriptor) -> Mapping[int, Descriptor]:
    """The messages within a message of this kind, by the tag of their field."""
    return {
        field.number << 3 | SECTION: field.message_type
        for field in kind.fields
        if field.message_type is not None
    }
