"""Spaces: messages, codecs, checks, descriptions."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as g
from hypothesis import assume, given
from hypothesis import strategies as st

from envmesh import spaces, values
from envmesh.errors import MissingExtra
from envmesh.v1 import space_pb2, value_pb2
from tests.unit.space_strategies import boxes, equal
from tests.unit.space_strategies import spaces as any_space

SEEDS = st.integers(0, 1 << 30)


def sampled(space: Any, seed: int) -> Any:
    """A sample, where Gymnasium itself can take and recognise one."""
    space.seed(seed)
    try:
        sample = space.sample()
        assume(space.contains(sample))
    except (ValueError, OverflowError, IndexError, TypeError, AssertionError, RuntimeWarning):
        assume(False)
    return sample


@given(any_space())
def test_a_space_comes_back_from_its_message(space):
    message = spaces.to_proto(space)
    back = spaces.from_proto(space_pb2.Space.FromString(message.SerializeToString()))
    assert back == space
    assert spaces.to_proto(back).SerializeToString() == message.SerializeToString()


@given(boxes())
def test_a_box_comes_back_with_its_bounds(box):
    back: Any = spaces.from_proto(spaces.to_proto(box))
    for name in ("low", "high", "bounded_below", "bounded_above"):
        assert equal(getattr(back, name), np.asarray(getattr(box, name))), name


@given(any_space(), SEEDS, st.booleans())
def test_samples_round_trip(space, seed, action):
    sample = sampled(space, seed)
    for codec in (spaces.codec(space, action=action), spaces.codec(spaces.to_proto(space), action=action)):
        decoded = codec.decode(codec.encode(sample))
        assert equal(sample, decoded)
        assert space.contains(decoded)
        assert codec.check(sample) is None
        assert codec.check(decoded) is None
        assert equal(sample, codec.typed(values.decode(values.encode(codec.plain(sample)))))


@given(any_space(), any_space(), SEEDS, st.booleans())
def test_the_check_takes_only_what_the_space_contains(space, other, seed, action):
    codec = spaces.codec(space, action=action)
    stranger = sampled(other, seed)
    decoded = codec.decode(codec.encode(stranger))
    if codec.check(decoded) is None:
        try:
            assert space.contains(decoded)
        except ValueError:  # Gymnasium cannot iterate over stacks of empty maps
            assume(False)


@given(any_space())
def test_every_space_has_a_line_of_words(space):
    line = spaces.describe(space)
    assert line
    assert "\n" not in repr(line)


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
    except Exception:  # protobuf's own affair
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


def test_maps_keep_the_order_of_their_space():
    space = g.Dict([("b", g.Discrete(2)), ("a", g.Discrete(2))])
    codec = spaces.codec(space)
    assert list(codec.decode(codec.encode({"a": 0, "b": 1}))) == ["b", "a"]
    back: Any = spaces.from_proto(spaces.to_proto(space))
    assert list(back) == ["b", "a"]


def test_none_is_the_functions_of_values_themselves():
    codec = spaces.codec(None)
    assert codec.encode is values.encode
    assert codec.decode is values.decode
    assert codec.check(object()) is None
    assert spaces.describe(None) == "any value"


def test_whole_arrays_travel_packed():
    for space in (
        g.Box(-1, 1, (2, 3)),
        g.MultiDiscrete([3, 4]),
        g.MultiBinary(4),
        g.Box(0, 1, (), np.float64),
    ):
        sample = space.sample()
        encoded = spaces.codec(space).encode(sample)
        assert value_pb2.Value.FromString(encoded).packed == sample.tobytes()
        assert value_pb2.Value.FromString(encoded).SerializeToString(deterministic=True) == encoded


def test_what_is_not_quite_the_declared_array_travels_in_general_form():
    codec = spaces.codec(g.Box(-1, 1, (2,)))
    for value in (np.zeros(2), np.zeros(3, np.float32), [0.0, 0.0], None, "text"):
        assert codec.encode(value) == values.encode(value)
        assert equal(codec.decode(codec.encode(value)), value)


def test_arrays_are_views_and_actions_are_the_environments_own():
    space = g.Dict(a=g.Box(-1, 1, (2,)), b=g.Tuple([g.MultiBinary(3)]), c=g.Box(0, 1, (2,), np.bool_))
    sample = space.sample()
    seen = spaces.codec(space).decode(values.encode(sample))
    acted = spaces.codec(space, action=True).decode(values.encode(sample))
    for whole, writeable in ((seen, False), (acted, True)):
        arrays = [whole["a"], whole["b"][0], whole["c"]]
        assert [array.flags.writeable for array in arrays] == [writeable] * 3
    for leaf in (space["a"], space["c"]):
        codec = spaces.codec(leaf, action=True)
        assert codec.decode(codec.encode(leaf.sample())).flags.writeable


@pytest.mark.parametrize(
    ("space", "given_", "expected"),
    [
        (g.Box(-1, 1, (2,)), [0.5, 1], np.array([0.5, 1], np.float32)),
        (g.Box(-1, 1, (2,)), np.array([0.1, 0.2]), np.array([0.1, 0.2], np.float32)),
        (g.Box(-1, 1, (2,)), np.array([1, 0]), np.array([1, 0], np.float32)),
        (g.Box(-1, 1, ()), 0.5, np.array(0.5, np.float32)),
        (g.Box(0, 255, (2,), np.uint8), [0, 255], np.array([0, 255], np.uint8)),
        (g.MultiBinary(2), [True, False], np.array([1, 0], np.int8)),
        (g.MultiDiscrete([3, 3]), (2, 0), np.array([2, 0])),
        (g.Dict(a=g.MultiDiscrete([3])), {"a": [1]}, {"a": np.array([1])}),
    ],
    ids=repr,
)
def test_actions_that_obviously_mean_an_array_become_one(space, given_, expected):
    codec = spaces.codec(space, action=True)
    assert equal(codec.decode(codec.encode(given_)), expected)
    assert equal(codec.decode(values.encode(given_)), expected)
    assert codec.check(codec.decode(codec.encode(given_))) is None


@pytest.mark.parametrize(
    ("space", "given_", "message"),
    [
        (
            g.Box(-1, 1, (2,)),
            [0.5],
            "expected float32 of shape (2,) within -1.0 to 1.0, got a list of length 1",
        ),
        (
            g.Box(-1, 1, (2,)),
            [[1], [1, 2]],
            "expected float32 of shape (2,) within -1.0 to 1.0, got a list of length 2",
        ),
        (
            g.Box(0, 9, (1,), np.uint8),
            [256],
            "expected uint8 of shape (1,) within 0 to 9, got a list of length 1",
        ),
        (
            g.Box(0, 9, (1,), np.int8),
            [0.5],
            "expected int8 of shape (1,) within 0 to 9, got a list of length 1",
        ),
        (
            g.Box(0, 9, (1,), np.int8),
            ["a"],
            "expected int8 of shape (1,) within 0 to 9, got a list of length 1",
        ),
    ],
    ids=repr,
)
def test_actions_that_do_not_stay_what_they_are(space, given_, message):
    codec = spaces.codec(space, action=True)
    assert codec.check(codec.decode(codec.encode(given_))) == message


F4 = np.float32


class Even(g.Discrete[np.int64]):
    """The even ones of a Discrete space."""

    def contains(self, x: Any) -> bool:
        return super().contains(x) and x % 2 == 0


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (g.Discrete(2), 7, "expected an integer in 0..1, got 7"),
        (g.Discrete(2), -1, "expected an integer in 0..1, got -1"),
        (g.Discrete(3, start=-1), 2, "expected an integer in -1..1, got 2"),
        (g.Discrete(2), np.int64(2), "expected an integer in 0..1, got 2"),
        (g.Discrete(2), 0.5, "expected an integer in 0..1, got 0.5 (float)"),
        (g.Discrete(2), "left", "expected an integer in 0..1, got the text 'left'"),
        (g.Discrete(2), None, "expected an integer in 0..1, got None"),
        (Even(4), 3, "expected an element of Discrete(4)"),
        (g.Box(-2, 2, (4,)), np.zeros(3, F4), "expected float32 of shape (4,) within -2.0 to 2.0, got shape (3,)"),
        (
            g.Box(-np.inf, np.inf, (4,)),
            np.zeros(4),
            "expected float32 of shape (4,), got float64 of shape (4,)",
        ),
        (
            g.Box(-2, 2, (1,)),
            np.array([3], F4),
            "expected float32 of shape (1,) within -2.0 to 2.0, got 3.0 at [0], where -2.0 to 2.0 is allowed",
        ),
        (
            g.Box(-np.inf, np.inf, (2,)),
            np.array([0, np.nan], F4),
            "expected float32 of shape (2,), got nan at [1], where -inf to inf is allowed",
        ),
        (g.Box(0, 255, (2,), np.uint8), [0, 0], "expected uint8 of shape (2,), got a list of length 2"),
        (
            g.MultiDiscrete([2, 3]),
            np.array([0, 3]),
            "expected int64 of shape (2,) within [0, 0] to [1, 2], got 3 at [1], where 0 to 2 is allowed",
        ),
        (
            g.MultiBinary(2),
            np.array([0, 2], np.int8),
            "expected int8 of shape (2,) within 0 to 1, got 2 at [1], where 0 to 1 is allowed",
        ),
        (
            g.MultiBinary(1),
            np.array([0.5]),
            "expected int8 of shape (1,) within 0 to 1, got 0.5 at [0], where 0 to 1 is allowed",
        ),
        (g.Text(3, charset="ab"), "abba", "expected text of 1 to 3 characters out of 'ab', got 4 characters"),
        (g.Text(3, charset="ab"), "acb", "expected text of 1 to 3 characters out of 'ab', got 'c' at 1"),
        (g.Text(3, charset="ab"), b"a", "expected text of 1 to 3 characters out of 'ab', got bytes"),
        (
            g.Dict(a=g.Discrete(2), b=g.Discrete(2)),
            {"a": 1, "c": 1},
            "expected a map with the keys 'a', 'b', but 'b' is missing and 'c' is not one of them",
        ),
        (g.Dict(a=g.Discrete(2)), [1], "expected a map with the keys 'a', got a list of length 1"),
        (
            g.Dict(a=g.Tuple([g.Discrete(2)])),
            {"a": (5,)},
            "at ['a'][0]: expected an integer in 0..1, got 5",
        ),
        (g.Tuple([g.Discrete(2)]), (1, 1), "expected a tuple of length 1, got one of length 2"),
        (g.Tuple([g.Discrete(2)]), 1, "expected a tuple of length 1, got 1 (int)"),
        (g.Sequence(g.Discrete(2)), (0, 1, 2), "at [2]: expected an integer in 0..1, got 2"),
        (g.Sequence(g.Discrete(2)), "01", "expected a tuple of any length, got the text '01'"),
        (g.Sequence(g.Discrete(2), stack=True), np.array([0, 9]), "at [1]: expected an integer in 0..1, got 9"),
        (
            g.Graph(g.Discrete(2, dtype=np.int8), None),
            (np.array([0, 1]), None, None),
            "at ['nodes']: expected an array of int8, got int64 of shape (2,)",
        ),
        (
            g.Sequence(g.Discrete(2), stack=True),
            (0, 1),
            "expected an array with one dimension more than its elements, got a tuple of length 2",
        ),
        (
            g.Sequence(g.Dict(a=g.Discrete(2), b=g.Discrete(2)), stack=True),
            {"a": np.zeros(2, int), "b": np.zeros(3, int)},
            "expected stacks of one length, got lengths 2, 3",
        ),
        (
            g.OneOf([g.Discrete(2)]),
            (1, 0),
            "expected (index, value) with an integer in 0..0 as index, got 1 (int) as index",
        ),
        (g.OneOf([g.Discrete(2)]), 1, "expected (index, value) with an integer in 0..0 as index, got 1 (int)"),
        (g.OneOf([g.Discrete(2)]), (0, 3), "at [1]: expected an integer in 0..1, got 3"),
        (g.Graph(g.Discrete(2), None), 1, "expected a graph of nodes, edges and edge_links, got 1 (int)"),
        (
            g.Graph(g.Discrete(2), None),
            g.GraphInstance(np.array([2]), None, None),
            "at ['nodes'][0]: expected an integer in 0..1, got 2",
        ),
        (
            g.Graph(g.Discrete(2), None),
            g.GraphInstance(np.array([1]), np.array([1]), np.array([[0, 0]])),
            "expected no edges, for this graph's carry none",
        ),
        (
            g.Graph(g.Discrete(2), g.Discrete(2)),
            g.GraphInstance(np.array([1]), np.array([1]), None),
            "expected edges and edge_links, or neither; got only one of them",
        ),
        (
            g.Graph(g.Discrete(2), g.Discrete(2)),
            g.GraphInstance(np.array([1]), np.array([1]), np.array([[0, 1]])),
            "at ['edge_links']: expected an integer array of shape (edges, 2) with indices of the 1 nodes, got 1",
        ),
    ],
    ids=repr,
)  # fmt: skip
def test_a_refusal_says_what_was_wrong_and_what_would_be_right(space, value, message):
    assert spaces.codec(space).check(value) == message


SCHEMA = {
    "type": "object",
    "properties": {"move": {"enum": ["left", "right"]}, "steps": {"type": "integer", "minimum": 1}},
    "required": ["move"],
    "additionalProperties": False,
}
TOOLS = spaces.ToolList(
    (
        spaces.Tool("search", "Web search.", {"properties": {"query": {"type": "string"}}, "required": ["query"]}),
        spaces.Tool("finish"),
    )
)  # fmt: skip


@pytest.mark.parametrize("space", [spaces.JsonSchema(SCHEMA), spaces.JsonSchema(True), TOOLS], ids=repr)
def test_spaces_of_json_come_back_from_their_messages(space):
    message = spaces.to_proto(space)
    assert spaces.from_proto(message) == space
    assert spaces.to_proto(spaces.from_proto(message)) == message


def test_a_dict_is_a_json_schema():
    assert spaces.to_proto(SCHEMA) == spaces.to_proto(spaces.JsonSchema(SCHEMA))


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (SCHEMA, {"move": "left", "steps": 2}, None),
        (SCHEMA, values.Json({"move": "left"}), None),
        (SCHEMA, {"move": "up"}, "at $.move: 'up' is not one of ['left', 'right']"),
        (SCHEMA, {"steps": 1}, "at $: 'move' is a required property"),
        (SCHEMA, {"move": "left", "steps": 0}, "at $.steps: 0 is less than the minimum of 1"),
        (SCHEMA, "left", "at $: 'left' is not of type 'object'"),
        (SCHEMA, b"left", "at $: b'left' is not of type 'object'"),
        ({"$ref": "https://example.org/schema.json"}, 1, "the schema itself refers to what is not in it: "),
        (TOOLS, {"name": "search", "arguments": {"query": "x"}, "id": "1"}, None),
        (TOOLS, {"name": "finish"}, None),
        (TOOLS, {"name": "finish", "arguments": {}}, None),
        (TOOLS, {"name": "finish", "arguments": {"x": 1}}, "'finish', at $: {'x': 1} is expected to be empty"),
        (TOOLS, {"name": "search"}, "in the arguments of 'search', at $: 'query' is a required property"),
        (TOOLS, {"name": "search", "arguments": '{"query": "x"}'}, "arguments of 'search' as an object, got the text"),
        (TOOLS, {"name": "fly"}, "expected a call of one of the tools 'search', 'finish', got one of 'fly'"),
        (TOOLS, {"name": "finish", "args": {}}, "with an 'id' if need be; got also 'args'"),
        (TOOLS, "I am done", "expected a tool call {'name': …, 'arguments': {…}}, got the text 'I am done'"),
        (TOOLS, [{"name": "finish"}], "expected a tool call {'name': …, 'arguments': {…}}, got a list of length 1"),
        (spaces.ToolList(TOOLS.tools, allow_text=True), "I am done", None),
        (spaces.ToolList(TOOLS.tools, allow_several=True), [{"name": "finish"}, {"name": "finish"}], None),
        (spaces.ToolList(TOOLS.tools, allow_several=True), [{"name": "fly"}], "expected a call of one of the tools"),
    ],
)  # fmt: skip
def test_json_is_checked_against_its_schema(space, value, message):
    problem = spaces.codec(space).check(value)
    assert problem is None if message is None else problem is not None and message in problem


@pytest.mark.parametrize(
    "value", [{"move": "left"}, "text", 3, None, [1, {"a": [True]}], values.Json({"b": 1})]
)
def test_values_of_a_json_schema_travel_as_json(value):
    codec = spaces.codec(spaces.JsonSchema(True))
    encoded = codec.encode(value)
    assert value_pb2.Value.FromString(encoded).WhichOneof("kind") == "json"
    assert codec.decode(encoded) == (value.document if isinstance(value, values.Json) else value)


def test_text_beside_tools_travels_as_text():
    codec = spaces.codec(spaces.ToolList(TOOLS.tools, allow_text=True))
    assert codec.encode("done") == values.encode("done")
    call = {"name": "search", "arguments": {"query": "x"}}
    assert codec.decode(codec.encode(call)) == call


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


def test_tools_have_distinct_names():
    with pytest.raises(ValueError, match="distinct names that are not empty, got 'a', 'a'"):
        spaces.ToolList((spaces.Tool("a"), spaces.Tool("a")))


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
