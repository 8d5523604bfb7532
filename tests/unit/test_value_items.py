"""A value has at most so many items in its maps and lists, however they are nested: more are refused on both sides, by
name, and what merely looks like many is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envmesh import values
from envmesh.v1 import value_pb2
from envmesh.wire import varint

MOST = values.MAX_ITEMS
REFUSED = "more than 1,000,000 items in its maps and lists; send numbers as an array, and a document as Json"


def list_of(item: bytes, times: int) -> bytes:
    """A list of so many equal values, or of entries a map, without asking the encoder."""
    return section(0x32, (b"\x0a" + varint(len(item)) + item) * times)


def section(tag: int, body: bytes) -> bytes:
    return bytes((tag,)) + varint(len(body)) + body


@pytest.mark.parametrize(
    "most",
    [
        [7] * MOST,
        [[None] * 999] * 1000,
        [{"a": [None] * 998}] * 1000,
    ],
    ids=["flat", "lists", "maps"],
)
def test_a_value_may_have_as_many_and_not_one_more(most: Any):
    encoded = values.encode(most)
    assert values.decode(encoded) == most
    with pytest.raises(ValueError, match=f"value: {REFUSED}"):
        values.encode([*most, None])
    message = value_pb2.Value.FromString(encoded)
    message.list.values.add()
    with pytest.raises(values.MalformedValue, match=REFUSED):
        values.decode(message.SerializeToString(deterministic=True))


@pytest.mark.parametrize("item", [b"", b"\x38\x00", b"\x2a\x00", b"\x12\x02[]"], ids=bytes.hex)
def test_ten_megabytes_of_tiny_items_are_refused(item: bytes):
    with pytest.raises(values.MalformedValue, match=REFUSED):
        values.decode(list_of(item, (10 << 20) // (len(item) + 2)))


def test_items_are_counted_too_where_the_form_is_not_the_canonical_one():
    value_before_key = b"\x0a\x05\x12\x00\x0a\x01a"
    with pytest.raises(values.MalformedValue, match=REFUSED):
        values.decode(section(0x2A, value_before_key * (MOST + 1)))


def test_bytes_that_items_would_begin_with_are_no_items():
    lines = "\n" * (MOST + 1)
    value = {"text": lines, "blob": lines.encode(), "list": [lines], "ids": np.full(MOST, 10)}
    decoded = values.decode(values.encode(value))
    assert (decoded["text"], decoded["blob"], decoded["list"]) == (lines, lines.encode(), [lines])
    assert decoded["ids"].sum() == 10 * MOST


def test_what_is_cut_off_within_its_items_is_malformed():
    whole = list_of(b"\x2a\x00", MOST)
    with pytest.raises(values.MalformedValue, match="bytes are announced"):
        values.decode(whole[:-1])
