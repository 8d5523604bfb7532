"""What a space refuses, and what it says of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as g

from envmesh import spaces

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
