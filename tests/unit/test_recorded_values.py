"""Values of a recording as JSON: what is read from the text is what was written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from envmesh import values
from envmesh.recorded_values import payload_from_json, payload_to_json
from tests.unit.value_strategies import nested


def written(payload: bytes) -> str:
    return json.dumps(payload_to_json(payload), ensure_ascii=False, allow_nan=False)


@given(nested())
def test_whatever_a_value_is_its_text_gives_its_bytes_back(value: Any):
    payload = values.encode(value)
    assert payload_from_json(json.loads(written(payload))) == payload


@pytest.mark.parametrize("number", [np.float64(1.5), np.float32(1.5), np.int64(3), np.bool_(True)])
def test_a_number_of_numpy_stays_one(number: Any):
    for value in (number, [number], {"score": number}):
        payload = values.encode(value)
        assert payload_from_json(json.loads(written(payload))) == payload
        assert "$tensor" in written(payload)
