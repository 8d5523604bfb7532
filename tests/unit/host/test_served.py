"""An environment as it is served: what it takes, and what its outcomes are on the wire."""

from __future__ import annotations

import math
from typing import Any

import pytest

from envmesh import values
from envmesh.digest import outcome_digest
from envmesh.errors import Refusal
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.player import Player
from envmesh_host.served import Served


def prepared(name: str) -> Served:
    return Served.prepare(load(f"tests.environments.particular:{name}"))


def begun(served: Served) -> Player:
    player = Player(served)
    player.reset(pb.ResetRequest())
    return player


def served_elsewhere(first: Served) -> Served:
    """As a later worker process has it: out of what the first one found."""
    return Served.as_found(first.definition, first.info, first.asynchronous)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [("OwnSpace", 4, 3), ("OwnSpaces", {"a": 4, "b": 3}, {"a": 3, "b": 4})],
)
def test_an_authors_own_space_holds_in_every_worker(name: str, inside: Any, outside: Any):
    first = prepared(name)
    for served in (first, served_elsewhere(first)):
        player = begun(served)
        player.step(values.encode(inside))
        with pytest.raises(Refusal, match="expected an element of"):
            player.step(values.encode(outside))


def test_a_zero_has_no_sign():
    served = prepared("Zeros")
    row = begun(served).step(values.encode(1))
    _, write = served.batch_forms()
    columns = write([(1, -0.0, False, False, {}), (1, 1.0, False, False, {})])
    assert tuple(column[0] for column in columns) == row
    assert math.copysign(1.0, row[1]) == 1.0
    assert row[3] == outcome_digest(row[0], 0.0, False, False)


def test_an_info_is_a_map():
    served = prepared("InfoOfMany")
    player = begun(served)
    assert values.decode(player.step(values.encode(1))[4]) == {"action": 1}
    with pytest.raises(Refusal, match="an info is a map, not list") as refused:
        player.step(values.encode(7))
    assert refused.value.reason == "ENVIRONMENT_RETURNED"
    _, write = served.batch_forms()
    with pytest.raises(TypeError, match="an info is a map, not list"):
        write([(1, 0.0, False, False, {}), (1, 0.0, False, False, ["no", "map"])])
