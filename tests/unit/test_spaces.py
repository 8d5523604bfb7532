"""Spaces: messages, codecs, checks, descriptions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as g
from hypothesis import assume, given
from hypothesis import strategies as st

from envmesh import spaces, values
from envmesh.v1 import space_pb2, value_pb2
from tests.unit.space_strategies import SCHEMA, TOOLS, boxes, equal
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


def test_every_array_of_a_graph_that_is_an_action_is_the_environments_own():
    space = g.Graph(g.Box(-1, 1, (2,), np.float32), g.Discrete(3))
    space.seed(1)
    codec = spaces.codec(space, action=True)
    graph = codec.decode(codec.encode(space.sample(num_nodes=4, num_edges=3)))
    assert [part.flags.writeable for part in graph] == [True] * 3
    assert space.contains(graph)


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


def test_tools_have_distinct_names():
    with pytest.raises(ValueError, match="distinct names that are not empty, got 'a', 'a'"):
        spaces.ToolList((spaces.Tool("a"), spaces.Tool("a")))
