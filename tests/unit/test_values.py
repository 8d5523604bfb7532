"""Values: round trips, protobuf's own bytes, refusals, hostile input."""

from __future__ import annotations

import enum
import json
import math
import random
import struct
import tracemalloc
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from envmesh import tensors, values
from envmesh.v1 import value_pb2
from envmesh.wire import varint
from tests.unit.value_strategies import TEXT, arrays, nested, returned, same


def by_protobuf(value: Any) -> value_pb2.Value:
    """The message of ``value``, made field by field as somebody would who has only the .proto."""
    message = value_pb2.Value()
    if value is None:
        pass
    elif isinstance(value, bool):
        message.boolean = value
    elif isinstance(value, str):
        message.text = value
    elif isinstance(value, bytes):
        message.blob.SetInParent()
        message.blob.data = value
    elif isinstance(value, values.Blob):
        message.blob.SetInParent()
        message.blob.data = value.data
        message.blob.media_type = "" if value.media_type == values.DEFAULT_MEDIA_TYPE else value.media_type
    elif isinstance(value, values.Json) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 63):
        document = value.document if isinstance(value, values.Json) else value
        message.json = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    elif isinstance(value, np.ndarray | np.generic):
        dtype = value.dtype.newbyteorder("<")
        message.tensor.dtype = tensors.CODES[dtype]  # type: ignore[assignment]
        message.tensor.shape.extend(value.shape)
        message.tensor.data = tensors.array_bytes(value.astype(dtype))
    elif isinstance(value, int):
        message.integer = value
    elif isinstance(value, float):
        message.real = value
    elif isinstance(value, dict):
        message.map.SetInParent()
        for key in sorted(value, key=str.encode):
            entry = message.map.entries.add(key=key)
            entry.value.CopyFrom(by_protobuf(value[key]))
    else:
        message.list.SetInParent()
        message.list.values.extend(by_protobuf(item) for item in value)
    return message


@given(nested())
@example("x" * 5000)
@example(b"y" * 5000)
@example([[], {}, (), {"": None}, None, "", b""])
def test_what_is_decoded_is_what_was_encoded(value):
    assert same(values.decode(values.encode(value)), returned(value))


@given(nested())
@example({"é": 1, "z": 2, "\U00010000": 3, "\uffff": 4})
@example(values.Blob(b"", "image/png"))
@example(-(1 << 63))
def test_the_bytes_are_those_of_protobufs_deterministic_serialization(value):
    encoded = values.encode(value)
    assert encoded == by_protobuf(value).SerializeToString(deterministic=True)
    assert encoded == value_pb2.Value.FromString(encoded).SerializeToString(deterministic=True)


@given(nested())
def test_messages_convert_like_bytes(value):
    message = values.to_proto(value)
    assert message.SerializeToString(deterministic=True) == values.encode(value)
    assert same(values.from_proto(message), returned(value))


@given(st.dictionaries(TEXT, st.integers(), max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_a_dict_does_not_matter(mapping: dict[str, int], shuffler: random.Random):
    items = list(mapping.items())
    shuffler.shuffle(items)
    assert values.encode(dict(items)) == values.encode(mapping)
    assert values.encode(values.Json(dict(items))) == values.encode(values.Json(mapping))


@given(arrays())
def test_an_array_is_a_view_that_cannot_be_written(array):
    encoded = values.encode(array)
    decoded = values.decode(encoded)
    if array.ndim:
        assert not decoded.flags.writeable
        assert decoded.base is encoded
    else:
        assert isinstance(decoded, np.generic)


def test_a_strided_array_is_made_row_major():
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    for strided in (array.transpose(2, 0, 1), array[:, ::2, ::-1], np.asfortranarray(array)):
        assert same(values.decode(values.encode(strided)), strided)


def test_a_large_array_is_copied_once():
    array = np.zeros(8_000_000, np.uint8)
    values.encode(array)
    tracemalloc.start()
    try:
        encoded = values.encode(array)
        values.decode(encoded)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_100_000


def test_truth_values_are_stored_as_0_and_1():
    odd = np.array([0, 1, 2, 255], np.uint8).view(np.bool_)
    assert values.encode(odd) == values.encode(np.array([False, True, True, True]))
    many = np.full(10_000, 7, np.uint8).view(np.bool_)
    assert values.encode(many) == values.encode(np.ones(10_000, np.bool_))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant != 63, reason="long double has no padding here")
def test_the_padding_of_a_long_double_is_zero():
    dirty = np.frombuffer(b"\xff" * 32, np.uint8).copy()
    dirty[:16].view(np.longdouble)[0] = 1.5
    dirty[10:16] = 0xAA
    clean = np.array([1.5], np.longdouble)
    assert values.encode(dirty[:16].view(np.longdouble)) == values.encode(clean)


def test_subclasses_go_as_what_they_are():
    class Colour(enum.StrEnum):
        RED = "red"

    class Level(str, enum.Enum):  # noqa: UP042  # whose str() is not its value
        HIGH = "high"

    class Number(enum.IntEnum):
        SEVEN = 7

    Point = namedtuple("Point", "x y")
    cases: list[tuple[Any, Any]] = [
        (Colour.RED, "red"),
        (Level.HIGH, "high"),
        (Number.SEVEN, 7),
        (np.str_("text"), "text"),
        (np.bytes_(b"raw"), b"raw"),
        (bytearray(b"raw"), b"raw"),
        (memoryview(b"rraaww")[::2], b"raw"),
        (Point(1, 2), [1, 2]),
        (OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (np.float64(0.5), np.float64(0.5)),
        (np.longlong(5), np.int64(5)),
        (values.Blob(bytearray(b"x"), "image/png"), values.Blob(b"x", "image/png")),  # type: ignore[arg-type]
    ]
    for value, expected in cases:
        assert same(values.decode(values.encode(value)), expected), value
        assert same(values.decode(values.encode([value])), [expected]), value


@dataclass
class Strange:
    name: str


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (Strange("x"), TypeError, r"value: .*\.Strange has no form"),
        ({1, 2}, TypeError, r"value: builtins.set has no form"),
        ({"a": [0, {"b": object()}]}, TypeError, r"value\['a'\]\[1\]\['b'\]: builtins.object has no form"),
        ({1: "x"}, TypeError, r"value: the keys of a map are text, got 1 \(int\)"),
        ({"a": {None: 1}}, TypeError, r"value\['a'\]: the keys of a map are text, got None"),
        (np.array([object()]), TypeError, r"value: numpy's dtype object has no form"),
        ([np.array(["text"])], TypeError, r"value\[0\]: numpy's dtype <U4 has no form"),
        (np.zeros(1, [("a", "i4")]), TypeError, r"numpy's dtype \[\('a'"),
        (np.datetime64("2020-01-01"), TypeError, r"numpy's dtype datetime64"),
        (np.ma.masked_array([1, 2], [True, False]), TypeError, r"a masked array has no form"),
        (values.Json(float("nan")), ValueError, r"value: no JSON document: "),
        ((1, values.Json({"a": float("inf")})), ValueError, r"value\[1\]: no JSON document: "),
        (values.Json(object()), TypeError, r"value: no JSON document: "),
        (values.Json({1: 2, "a": 3}), TypeError, r"value: no JSON document: "),
        (values.Json("\ud800"), ValueError, r"value: the text holds unpaired surrogates"),
        ("\ud800", ValueError, r"value: the text holds unpaired surrogates"),
        (["\ud800"], ValueError, r"value\[0\]: the text holds unpaired surrogates"),
        ({"\ud800": 1}, ValueError, r"value: the text holds unpaired surrogates"),
        ([10**5000], ValueError, r"value\[0\]: no JSON document: "),
        (values.Blob("text", "text/plain"), TypeError, r"value: a Blob is made of bytes"),  # type: ignore[arg-type]
    ],
)
def test_what_has_no_form_is_refused_with_the_path_to_it(value, kind, message):
    with pytest.raises(kind, match=message):
        values.encode(value)


@pytest.mark.skipif(int(np.__version__.split(".")[0]) < 2, reason="numpy 1 has no such array")
def test_an_array_of_33_dimensions_is_refused():
    with pytest.raises(ValueError, match="at most 32 dimensions, got 33"):
        values.encode(np.zeros((1,) * 33))


def nest(depth: int, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


@pytest.mark.parametrize("kind", [list, dict])
def test_depth_is_bounded_where_protobufs_parsers_still_follow(kind):
    deepest = nest(values.MAX_DEPTH, kind)
    encoded = values.encode(deepest)
    assert values.decode(encoded) == deepest
    assert value_pb2.Value.FromString(encoded).SerializeToString(deterministic=True) == encoded
    with pytest.raises(ValueError, match="nested deeper than 32 maps and lists; send it as Json"):
        values.encode(nest(values.MAX_DEPTH + 1, kind))
    assert values.decode(values.encode(values.Json(nest(60, kind)))) == nest(60, kind)


def test_a_value_that_contains_itself_is_refused():
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested deeper"):
        values.encode(endless)
    with pytest.raises(ValueError, match="Circular"):
        values.encode(values.Json(endless))


def tensor_bytes(dtype: int, shape: list[int], data: bytes) -> bytes:
    tensor = value_pb2.Tensor(shape=shape, data=data)
    tensor.dtype = dtype  # type: ignore[assignment]
    return value_pb2.Value(tensor=tensor).SerializeToString()


FLOAT32 = value_pb2.DTYPE_FLOAT32
GOOD = tensor_bytes(FLOAT32, [2], bytes(8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\x05abc", "5 bytes are announced and 3 are there"),
        (b"\x0a\xff\xff\xff\xff\x0f", "4294967295 bytes are announced and 0 are there"),
        (b"\x0a" + b"\xff" * 11, "more than 10 bytes"),
        (b"\x0a", "ends too soon"),
        (b"\x0a\x02\xff\xfe", "text is not UTF-8"),
        (b"\x0a\x03\xed\xa0\x80", "text is not UTF-8"),
        (b"\x5a\x01x", "unknown kind"),
        (b"\x41\x00\x00", "a real is not 8 bytes"),
        (b"\x48\x02\x00", "neither 0 nor 1"),
        (b"\x0a\x01a\x0a", "something follows"),
        (b"\x12\x01{", "json is no JSON document"),
        (b"\x12\x03NaN", "NaN is refused"),
        (b"\x12\x051e999", "beyond the range of a double"),
        (b"\x12\x08" + b'"\\ud800"', "surrogates not allowed"),
        (b"\x12\x00", "json is no JSON document"),
        (value_pb2.Value(json="[" * 100_000).SerializeToString(), "nested too deeply"),
        (value_pb2.Value(json="9" * 5000).SerializeToString(), "no JSON document"),
        (tensor_bytes(0, [2], bytes(8)), "a tensor does not begin with its dtype|not the number of a dtype"),
        (tensor_bytes(99, [2], bytes(8)), "99 is not the number of a dtype"),
        (tensor_bytes(FLOAT32, [2], bytes(7)), "has 8 bytes, not 7"),
        (tensor_bytes(FLOAT32, [2], bytes(9)), "has 8 bytes, not 9"),
        (tensor_bytes(FLOAT32, [], b""), "has 4 bytes, not 0"),
        (tensor_bytes(FLOAT32, [1 << 63, 1 << 63], b""), "bytes, not 0"),
        (tensor_bytes(FLOAT32, [1 << 62, 4], b""), "bytes, not 0"),
        (tensor_bytes(FLOAT32, [(1 << 64) - 1, 0], b""), "no array has the shape"),
        (tensor_bytes(FLOAT32, [1 << 40, 1 << 40, 0], b""), "no array has the shape"),
        (tensor_bytes(FLOAT32, [1] * 33, bytes(4)), "more than 32 dimensions"),
        (tensor_bytes(value_pb2.DTYPE_BOOL, [2], b"\x01\x02"), "neither 0 nor 1"),
        (tensor_bytes(value_pb2.DTYPE_BOOL, [], b"\x02"), "neither 0 nor 1"),
        (GOOD[:-1], "announced"),
        (GOOD + b"\x00", "tensor|something follows"),
        (b"\x2a\x0c" + b"\x0a\x04\x0a\x00\x12\x00" * 2, "the same key twice"),
        (b"\x2a\x04\x0a\x02\x18\x01", "unknown field"),
        (b"\x32\x02\x10\x01", "unknown field"),
        (b"\x32\x04\x0a\x02\x58\x01", "unknown kind|announced"),
        (b"\x22\x02\x18\x01", "a blob has an unknown field"),
        (b"\x52\x04\x00\x00\x00\x00", "packed tensor came where no space"),
        (b"\x07", "unknown kind|too soon"),
    ],
    ids=lambda value: value.hex()[:24] if isinstance(value, bytes) else None,
)
def test_malformed_bytes_are_refused_by_name(data, message):
    with pytest.raises(values.MalformedValue, match=message):
        values.decode(data)
    body = b"\x0a" + varint(len(data)) + data
    with pytest.raises(values.MalformedValue, match=message):
        values.decode(b"\x32" + varint(len(body)) + body)


def wrapped(depth: int) -> bytes:
    """The text "deep" inside ``depth`` lists, without asking the encoder."""
    encoded = b"\x0a\x04deep"
    for _ in range(depth):
        body = b"\x0a" + varint(len(encoded)) + encoded
        encoded = b"\x32" + varint(len(body)) + body
    return encoded


def test_hostile_depth_is_refused():
    assert values.decode(wrapped(32)) == nest(32, list)
    for depth in (33, 34, 49, 50, 5000):
        with pytest.raises(values.MalformedValue, match="nested deeper than 32"):
            values.decode(wrapped(depth))


def test_an_announced_length_is_not_allocated():
    announced = b"\x1a" + varint(1 << 40) + b"\x08\x0b\x12\x06" + varint(1 << 38)
    tracemalloc.start()
    try:
        for hostile in (announced, b"\x0a" + varint(1 << 40) + b"abc", b"\x22" + varint(1 << 40)):
            with pytest.raises(values.MalformedValue):
                values.decode(hostile)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_refused(data):
    try:
        value = values.decode(data)
    except values.MalformedValue:
        return
    values.encode(value)


@settings(max_examples=300)
@given(nested(), st.data())
def test_a_damaged_value_is_a_value_or_refused(value, data):
    encoded = bytearray(values.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        if encoded:
            place = data.draw(st.integers(0, len(encoded) - 1))
            change = data.draw(st.sampled_from(["cut", "flip", "insert"]))
            if change == "cut":
                del encoded[place:]
            elif change == "flip":
                encoded[place] ^= 1 << data.draw(st.integers(0, 7))
            else:
                encoded.insert(place, data.draw(st.integers(0, 255)))
    try:
        values.decode(bytes(encoded))
    except values.MalformedValue:
        pass


@given(st.binary(max_size=64))
def test_protobuf_and_the_parser_agree_on_what_is_refused(data):
    """Whatever the parser takes, protobuf takes, and reads as the same value."""
    try:
        value = values.decode(data)
    except values.MalformedValue:
        return
    message = value_pb2.Value.FromString(data)
    assert same(values.from_proto(message), value)


def test_what_protobuf_may_write_otherwise_is_understood():
    # The data before the shape, the shape unpacked, the dtype twice: all legal, none canonical.
    inner = b"\x1a\x08" + bytes(8) + b"\x10\x02" + b"\x08\x01\x08\x0b"
    assert same(values.decode(b"\x1a" + bytes([len(inner)]) + inner), np.zeros(2, np.float32))
    # A oneof set twice: the last counts.
    assert values.decode(b"\x38\x02\x0a\x01x") == "x"
    # Entries in any order, a value before its key, no value at all.
    unordered = b"\x0a\x05\x12\x00\x0a\x01b" + b"\x0a\x03\x0a\x01a"
    assert values.decode(b"\x2a" + bytes([len(unordered)]) + unordered) == {"a": None, "b": None}
    # A media type spelled out.
    spelled = value_pb2.Value(blob=value_pb2.Blob(media_type=values.DEFAULT_MEDIA_TYPE, data=b"x"))
    assert values.from_proto(spelled) == b"x"


def test_packed_bytes_are_read_with_a_hint():
    class Hint:
        dtype = np.dtype(np.float32)
        shape = (2, 2)

    raw = np.arange(4, dtype=np.float32).tobytes()
    packed = value_pb2.Value(packed=raw).SerializeToString()
    assert same(values.decode(packed, space_hint=Hint()), np.arange(4, dtype=np.float32).reshape(2, 2))
    with pytest.raises(values.MalformedValue, match="has 4 bytes where its space needs 16"):
        values.decode(value_pb2.Value(packed=raw[:4]).SerializeToString(), space_hint=Hint())


def test_more_shapes_than_are_remembered():
    for size in range(10_000):
        array = np.zeros(size % 5000, np.int8)
        assert values.decode(values.encode(array)).shape == array.shape


def test_numbers_at_their_bounds():
    for number in (
        0,
        1,
        -1,
        63,
        -64,
        -65,
        1023,
        1024,
        (1 << 63) - 1,
        -(1 << 63),
        1 << 63,
        -(1 << 63) - 1,
        1 << 80,
    ):
        assert values.decode(values.encode(number)) == number
    assert values.encode(1 << 63)[0] == 0x12
    assert math.isnan(values.decode(values.encode(math.nan)))
    assert struct.pack("<d", values.decode(values.encode(-0.0))) == struct.pack("<d", -0.0)
