"""Spaces as messages: what has no form, what no space fits, and how they read without Gymnasium."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from gymnasium import spaces as g
from hypothesis import assume, given
from hypothesis import strategies as st

from envmesh import spaces, values
from envmesh.errors import MissingExtra
from envmesh.v1 import space_pb2, value_pb2
from tests.unit.space_strategies import SCHEMA, TOOLS
from tests.unit.space_strategies import spaces as any_space


@given(any_space(), st.binary(max_size=60))
def test_hostile_bytes_are_a_value_or_refused(space, data):
    codec = spaces.codec(space)
    try:
        codec.check(codec.decode(data))
    except values.MalformedValue:
        pass


@given(st.binary(max_size=80))
def test_a_hostile_message_is_a_space_or_refused(data):
    try:
        message = space_pb2.Space.FromString(data)
    except DecodeError:  # it is no message at all
        return
    for use in (spaces.from_proto, spaces.codec, spaces.describe):
        try:
            use(message)
        except spaces.MalformedSpace:
            pass


@given(any_space(), st.data())
def test_a_damaged_message_is_a_space_or_refused(space, data):
    encoded = bytearray(spaces.to_proto(space).SerializeToString())
    assume(encoded)
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    test_a_hostile_message_is_a_space_or_refused.hypothesis.inner_test(bytes(encoded))  # type: ignore[attr-defined]


ODD_NAMES: Any = {1: g.Discrete(2)}


class Own(g.Space[Any]):
    """A kind of space nobody knows."""


@pytest.mark.parametrize(
    ("space", "kind", "message"),
    [
        (Own(), TypeError, r"\.Own has no form in the protocol; spaces are Gymnasium's Box, Discrete"),
        (3, TypeError, r"builtins.int has no form"),
        (g.Dict(ODD_NAMES), TypeError, r"names of a Dict space are text, got 1 \(int\)"),
        ({"type": "strnig"}, ValueError, r"no valid JSON Schema: at \$.type: 'strnig' is not valid"),
        (spaces.JsonSchema({"const": float("nan")}), ValueError, "a JSON Schema is no JSON document"),
        (spaces.ToolList((spaces.Tool("a", "", {"type": 1}),)), ValueError, "no valid JSON Schema"),
    ],
)
def test_what_has_no_form_is_refused(space, kind, message):
    with pytest.raises(kind, match=message):
        spaces.to_proto(space)


def huge(**fields: Any) -> space_pb2.Space:
    zero = values.to_proto(np.float32(0)).tensor
    return space_pb2.Space(
        box=space_pb2.BoxSpace(dtype=value_pb2.DTYPE_FLOAT32, low=zero, high=zero, **fields)
    )


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (space_pb2.Space(), "unknown kind"),
        (huge(shape=[1 << 40]), "too large"),
        (huge(shape=[0, 1 << 62]), "too large"),
        (space_pb2.Space(box=space_pb2.BoxSpace()), "not the dtype of a box"),
        (space_pb2.Space(discrete=space_pb2.DiscreteSpace(n=0, dtype=value_pb2.DTYPE_INT64)), "discrete"),
        (space_pb2.Space(json_schema=space_pb2.JsonSchemaSpace(schema="{")), "no JSON document"),
        (space_pb2.Space(json_schema=space_pb2.JsonSchemaSpace(schema="3")), "an object or a truth value"),
        (
            space_pb2.Space(
                multi_discrete=space_pb2.MultiDiscreteSpace(n=values.to_proto(np.array([0])).tensor)
            ),
            "at least 1",
        ),
        (
            space_pb2.Space(
                multi_discrete=space_pb2.MultiDiscreteSpace(
                    n=values.to_proto(np.array([100], np.int8)).tensor,
                    start=values.to_proto(np.array([100], np.int8)).tensor,
                )
            ),
            "least value greater than its greatest",
        ),
    ],
    ids=str,
)
def test_messages_that_no_space_fits_are_refused(message, problem):
    with pytest.raises(spaces.MalformedSpace, match=problem):
        spaces.from_proto(message)
    with pytest.raises(spaces.MalformedSpace, match=problem):
        spaces.codec(message)


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (g.Discrete(2), "an integer in 0..1"),
        (g.Box(-1, 1, (4,)), "float32 of shape (4,) within -1.0 to 1.0"),
        (g.Box(0, 255, (84, 84, 3), np.uint8), "uint8 of shape (84, 84, 3)"),
        (g.Box(np.arange(20.0), 20, (20,), np.float64), "float64 of shape (20,) within (0.0 … 19.0) to 20.0"),
        (g.MultiDiscrete([2, 3]), "int64 of shape (2,) within [0, 0] to [1, 2]"),
        (g.MultiBinary(4), "zeros and ones of shape (4,)"),
        (g.Text(8), "text of 1 to 8 characters out of 62"),
        (g.Dict(a=g.Discrete(2), b=g.Tuple([])), "{a: an integer in 0..1, b: ()}"),
        (g.Sequence(g.Discrete(2)), "any number of (an integer in 0..1)"),
        (g.Sequence(g.Discrete(2), stack=True), "a stack of (an integer in 0..1)"),
        (g.OneOf([g.Discrete(2), g.Discrete(3)]), "one of (an integer in 0..1 | an integer in 0..2)"),
        (g.Graph(g.Discrete(2), None), "graph with nodes (an integer in 0..1), no edges"),
        (SCHEMA, "JSON: object with move, steps"),
        (spaces.JsonSchema({"title": "A move"}), "JSON: A move"),
        (spaces.JsonSchema(True), "JSON: anything"),
        (spaces.JsonSchema({"type": ["string", "null"]}), "JSON: string or null"),
        (TOOLS, "a call of search(query), finish()"),
        (spaces.ToolList((), allow_text=True, allow_several=True), "calls of no tool, or text"),
    ],
    ids=repr,
)
def test_descriptions(space, line):
    assert spaces.describe(space) == line


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"gymnasium", "jsonschema", "referencing"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from envmesh import spaces
from envmesh.errors import MissingExtra
from envmesh.v1 import space_pb2

messages = [space_pb2.Space.FromString(bytes.fromhex(line)) for line in sys.argv[1:]]
box, graph, schema = map(spaces.codec, messages)
print(box.decode(bytes.fromhex("5208000000000000803f")).tolist(), graph.decode(graph.encode([None] * 3)))
print(spaces.describe(messages[0]))
for use in (lambda: spaces.from_proto(messages[0]), lambda: schema.check(1), lambda: spaces.to_proto({"type": "null"})):
    try:
        use()
    except MissingExtra as error:
        assert isinstance(error, ImportError)
        print(error)
"""


def test_a_client_without_gymnasium_reads_arrays_and_says_what_to_install():
    messages: list[Any] = [g.Box(-1, 1, (2,)), g.Graph(g.Discrete(2), None), SCHEMA]
    arguments = [spaces.to_proto(space).SerializeToString().hex() for space in messages]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], check=False, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "[0.0, 1.0] GraphParts(nodes=None, edges=None, edge_links=None)"
    assert lines[1] == "float32 of shape (2,) within -1.0 to 1.0"
    assert len(lines) == 5
    assert all("pip install 'envmesh[mesh]'" in line for line in lines[2:])
    assert issubclass(MissingExtra, ImportError)
