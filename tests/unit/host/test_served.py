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
from envmesh_host.player import AsyncPlayer, Player, make_player
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


def test_each_episode_is_judged_by_its_own_space():
    first = prepared("Board")
    for served in (first, served_elsewhere(first)):
        one, other = begun(served), begun(served)
        one.step(values.encode(4))
        with pytest.raises(Refusal, match="expected an element of"):
            one.step(values.encode(4))
        other.step(values.encode(4))
        assert served.own_space, "a host steps them one by one then"


@pytest.mark.parametrize(
    ("place", "wrong", "where"),
    [
        (1, 3, r"at \['inside'\]\[1\]: "),
        (2, [2, 3], r"at \['inside'\]\[2\]\[1\]: "),
        (3, [1, 3], r"at \['inside'\]\[3\]\[1\]: "),
        (0, 11, r"at \['inside'\]\[0\]: "),
    ],
)
def test_an_authors_own_space_inside_of_another_holds_in_every_worker(place: int, wrong: Any, where: str):
    first = prepared("OwnSpaceInside")
    for served in (first, served_elsewhere(first)):
        player = begun(served)
        inside: list[Any] = [3, 4, [2, 4], [1, 4]]
        player.step(values.encode({"plain": 3, "inside": inside}))
        inside[place] = wrong
        with pytest.raises(Refusal, match=where) as refused:
            player.step(values.encode({"plain": 3, "inside": inside}))
        assert refused.value.reason == "ACTION_INVALID"


def test_what_an_instance_says_of_its_spaces_holds_and_not_what_its_class_says():
    first = prepared("SpaceOfTheInstance")
    assert (first.info.action_space.discrete.n, first.info.observation_space.discrete.n) == (10, 10)
    for served in (first, served_elsewhere(first)):
        player = begun(served)
        player.step(values.encode(9))
        with pytest.raises(Refusal, match=r"0\.\.9"):
            player.step(values.encode(10))


def test_a_space_that_is_declared_is_not_overridden_by_an_attribute():
    first = prepared("SpaceThatIsDeclared")
    assert (first.info.action_space.discrete.n, first.info.observation_space.discrete.n) == (5, 10)
    for served in (first, served_elsewhere(first)):
        player = begun(served)
        with pytest.raises(Refusal, match=r"0\.\.4"):
            player.step(values.encode(5))


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


def test_what_agents_are_told_in_an_info_is_not_digested():
    served = prepared("InfosOfAgents")
    player = Player(served)
    player.reset(pb.ResetRequest())
    actions = values.encode({"a": 1, "b": 2})
    first, second = player.step(actions), player.step(actions)
    assert first[0] != second[0], "the infos travel"
    assert first[3] == second[3]
    outcomes = pb.AgentOutcomes.FromString(first[0])
    assert set(values.from_proto(outcomes.outcomes[0].info)) == {"told"}
    for each in outcomes.outcomes:
        each.ClearField("info")
    assert first[3] == outcome_digest(outcomes.SerializeToString(deterministic=True), 1.0, False, False)


def test_an_authors_digest_stands_for_the_observation_in_every_worker():
    first = prepared("SaysWhatMustBeEqual")
    assert first.info.deterministic, "no checkpoint is needed at every step"
    for served in (first, served_elsewhere(first)):
        player = begun(served)
        row, another = player.step(values.encode(3)), player.step(values.encode(0))
        assert row[0] != another[0]
        assert row[3] == another[3] == outcome_digest(values.encode(3), 1.0, False, False)
        with pytest.raises(Refusal, match="digest raised RuntimeError: unlucky") as refused:
            player.step(values.encode(4))
        assert refused.value.reason == "ENVIRONMENT_RAISED"
        with pytest.raises(Refusal, match=r"digest\(\): ") as refused:
            player.step(values.encode(1))
        assert refused.value.reason == "ENVIRONMENT_RETURNED"


async def test_a_coroutine_among_the_optional_methods_makes_an_environment_asynchronous():
    served = prepared("Mixed")
    assert served.asynchronous
    player = make_player(served)
    assert isinstance(player, AsyncPlayer)
    await player.reset(pb.ResetRequest())
    await player.step(values.encode(1))
    assert (await player.reward(1))[1] == 0.5
    await player.close()
    assert player.instance.closed == 1
