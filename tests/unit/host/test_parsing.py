"""What is too much to be parsed is told from its bytes."""

import pytest

from envmesh import values
from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import value_pb2
from envmesh.wire import varint
from envmesh_host.journals import saved_environment
from envmesh_host.parsing import MOST_FIELDS, has_too_many_fields, parse

MOST = 1000
EMPTY = b"\x0a\x00"
LIST, MAP = 6, 5


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def reset(options: bytes) -> bytes:
    return field(pb.ResetRequest.DESCRIPTOR.fields_by_name["options"].number, options)


def resume(options: bytes) -> bytes:
    entry = field(pb.ResetEntry.DESCRIPTOR.fields_by_name["options"].number, options)
    entry = field(pb.JournalEntry.DESCRIPTOR.fields_by_name["reset"].number, entry)
    journal = field(pb.Journal.DESCRIPTOR.fields_by_name["entries"].number, entry)
    return field(pb.ResumeRequest.DESCRIPTOR.fields_by_name["journal"].number, journal)


@pytest.mark.parametrize(
    "options",
    [
        field(LIST, EMPTY * MOST),
        field(LIST, field(1, field(LIST, EMPTY * 10)) * (MOST // 10)),
        field(MAP, field(1, field(2, b"")) * (MOST // 2)),
        field(LIST, b"\x8a\x00\x00" * MOST),
        field(LIST, b"\x0a\x80\x00" * MOST),
        (field(LIST, b"") + field(MAP, b"")) * (MOST // 2),
        b"\x3b" + field(LIST, EMPTY * MOST),
    ],
    ids=["flat", "nested", "map", "long tags", "long lengths", "again and again", "in a group"],
)
@pytest.mark.parametrize(
    ("kind", "spelled"), [(pb.ResetRequest, reset), (pb.ResumeRequest, resume)], ids=["reset", "resume"]
)
def test_many_parts_are_counted_however_they_are_spelled(kind, spelled, options):
    assert has_too_many_fields(kind.DESCRIPTOR, spelled(options), MOST)


def test_what_is_large_and_of_few_parts_is_parsed():
    tags = EMPTY * (2 * MOST)
    for options in ({"text": tags.decode(), "blob": tags, "list": [tags] * 100},):
        request = pb.ResetRequest(options=values.to_proto(options), task=tags.decode())
        assert not has_too_many_fields(pb.ResetRequest.DESCRIPTOR, request.SerializeToString(), MOST)


def test_parts_up_to_the_bound_are_parsed():
    numbers = field(LIST, b"\x0a\x00\x0a\x00" * (MOST // 2 - 1))  # with the two fields around them
    assert not has_too_many_fields(pb.ResetRequest.DESCRIPTOR, reset(numbers), MOST)
    assert has_too_many_fields(pb.ResetRequest.DESCRIPTOR, reset(numbers) + b"\x0a\x00", MOST)


@pytest.mark.parametrize(
    "malformed",
    [
        b"\xff" * 5000,
        b"\x0a\xff\xff\xff\x7f" + bytes(5000),
        reset(field(LIST, b"\x0a\x7f" + EMPTY * 50)) * 50,
    ],
)
def test_nothing_is_counted_beyond_what_no_parser_gets_past(malformed):
    assert not has_too_many_fields(pb.ResetRequest.DESCRIPTOR, malformed, MOST)


def test_what_nests_too_deep_is_left_to_the_parser():
    options = b""
    for _ in range(200):
        options = field(LIST, field(1, options))
    payload = reset(options + field(LIST, EMPTY * MOST))
    assert not has_too_many_fields(pb.ResetRequest.DESCRIPTOR, payload, MOST)
    with pytest.raises(Refusal, match="no ResetRequest"):
        parse(pb.ResetRequest, payload)


def test_too_much_is_refused_before_it_is_parsed():
    with pytest.raises(
        Refusal, match="values of this ResetRequest have more than 1,000,000 items"
    ) as refused:
        parse(pb.ResetRequest, reset(field(LIST, EMPTY * MOST_FIELDS)))
    assert refused.value.reason == "MALFORMED"


def test_a_checkpoint_says_what_it_is_of_before_it_is_parsed():
    state = value_pb2.Value(text="x")
    content = pb.CheckpointContent(state=state, environment="walk@1", build="b").SerializeToString()
    assert saved_environment(content) == "walk@1"
    assert saved_environment(b"") == saved_environment(b"\x0a\x00" * 1000 + content) == ""
    with pytest.raises(Refusal, match="cannot be decoded") as refused:
        saved_environment(field(3, b"\xff"))
    assert refused.value.reason == "MALFORMED"
