"""Whole columns of values: what is decoded is one's own, and what is encoded does not depend on what was before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as g

from envmesh import spaces
from envmesh.batch_codec import BatchCodec

BOX = spaces.to_proto(g.Box(0, 255, (3,), np.uint8))
NUMBERS = spaces.to_proto(g.Box(-1, 1, (3,), np.float32))
DISCRETE = spaces.to_proto(g.Discrete(3))


@pytest.mark.parametrize("count", [1, 2])
def test_decoded_arrays_are_ones_own_however_many_there_are(count: int):
    codec = BatchCodec(NUMBERS)
    found = codec.decode(codec.encode(np.zeros((count, 3), np.float32)))
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.flags.writeable, found.flags.aligned) == ((count, 3), True, True)


@pytest.mark.parametrize(
    "column",
    [
        np.full((2, 3), 0.5),
        np.zeros((2, 4), np.uint8),
        [np.zeros(3, np.uint8), "no array"],
        np.zeros((0, 3), np.uint8),
    ],
)
def test_a_column_in_general_form_does_not_pass_for_a_packed_one(column: Any):
    codec = BatchCodec(BOX, action=True)
    payloads = codec.encode(np.zeros((2, 3), np.uint8))
    assert {codec.packed} == set(map(len, payloads))
    codec.encode(column)
    assert codec.packed is None


@pytest.mark.parametrize(
    "column",
    [
        np.array([1.0, 0.0]),
        [1.0, 0.0],
        [True, False],
        np.array([True, False]),
        [np.int64(1), 0],
        [np.array(1), 2],
    ],
)
def test_actions_of_integers_are_encoded_the_same_whatever_was_encoded_before(column: Any):
    fresh, used = BatchCodec(DISCRETE, action=True), BatchCodec(DISCRETE, action=True)
    used.encode(np.array([0, 1, 2]))
    one_by_one = list(map(spaces.codec(DISCRETE, action=True).encode, column))
    assert used.encode(column) == fresh.encode(column) == one_by_one
