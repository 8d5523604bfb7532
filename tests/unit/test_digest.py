"""The digest of an outcome, and its test vectors."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from envmesh import digest, values
from envmesh.v1 import value_pb2
from tools import generate_digest_vectors

VECTORS: list[dict[str, Any]] = json.loads(generate_digest_vectors.FILE.read_text("utf-8"))


def test_the_vectors_are_what_the_script_writes():
    assert generate_digest_vectors.FILE.read_text("utf-8") == generate_digest_vectors.text()


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: row["what"].replace(" ", "_"))
def test_every_vector_follows_from_what_the_proto_says(row):
    observation = bytes.fromhex(row["observation"])
    digested = (
        observation + struct.pack("<d", row["reward"]) + bytes([row["terminated"] + 2 * row["truncated"]])
    )
    assert f"{xxhash.xxh3_64(digested, seed=0).intdigest():016x}" == row["digest"]
    assert value_pb2.Value.FromString(observation).SerializeToString(deterministic=True) == observation
    assert values.encode(values.decode(observation)) == observation or row["what"] == "json"


def test_xxh3_is_the_published_one():
    assert xxhash.xxh3_64_hexdigest(b"") == "2d06800538d394c2"


@given(
    st.binary(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.booleans(),
)
def test_the_suffix_is_what_is_digested_after_the_observation(observation, reward, terminated, truncated):
    whole = observation + digest.suffix(reward, terminated | truncated << 1)
    expected = xxhash.xxh3_64_intdigest(whole)
    assert digest.outcome_digest(observation, reward, terminated, truncated) == expected
    numpys: Any = np.bool_(terminated)  # which environments return, whatever the annotations say
    assert digest.outcome_digest(observation, np.float64(reward), numpys, truncated) == expected


def test_every_part_counts():
    outcomes: list[tuple[bytes, float, bool, bool]] = [
        (b"", 0.0, False, False),
        (b"\x00", 0.0, False, False),
        (b"", 1.0, False, False),
        (b"", -0.0, False, False),
        (b"", 0.0, True, False),
        (b"", 0.0, False, True),
        (b"", 0.0, True, True),
    ]
    assert len({digest.outcome_digest(*outcome) for outcome in outcomes}) == len(outcomes)
