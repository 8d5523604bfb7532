"""``--policy``: what the user's own policy raises is said to be the policy's, whatever kind of policy it is."""

import sys
from types import ModuleType
from typing import Any

import pytest

import envmesh
from envmesh.outcome import EnvironmentSpec
from envmesh.policies import kind_of
from envmesh.v1 import environment_pb2 as pb
from envmesh_cli.chosen_policy import policy_for
from envmesh_cli.failures import CommandFailed

SPEC = EnvironmentSpec(pb.EnvironmentInfo(name="countdown", version="1"))


class WrongKind:
    """An environment, say: it cannot be called with an observation."""


def stumble(observation: Any) -> Any:
    raise KeyError("no idea")


async def stumble_later(observation: Any) -> Any:
    raise KeyError("no idea")


@envmesh.batched
def stumble_together(observations: list[Any]) -> Any:
    raise KeyError("no idea")


@envmesh.per_episode
def stumble_at_first(seed: Any, task: Any) -> Any:
    return stumble


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The policy that the command line gives for one of the user's."""

    def choose(policy: Any) -> Any:
        module = ModuleType("policies_of_a_user")
        module.act = policy  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return policy_for(f"{module.__name__}:act", SPEC, None)

    return choose


BLAMED = r"^--policy policies_of_a_user:act failed: "
WHERE = r"KeyError: 'no idea' \(test_chosen_policy.py, line \d+\)"


def test_a_class_of_the_wrong_kind_is_said_to_be_the_policy_that_failed(chosen: Any):
    with pytest.raises(
        CommandFailed, match=BLAMED + r"TypeError: WrongKind\(\) takes no arguments \(--verbose"
    ):
        chosen(WrongKind)("observation")


@pytest.mark.parametrize("policy", [stumble, stumble_together, {"white": stumble}, stumble_at_first])
def test_what_a_policy_raises_is_the_policy_s(chosen: Any, policy: Any):
    found = chosen(policy)
    assert kind_of(found) == kind_of(policy)
    act = found["white"] if isinstance(found, dict) else found
    if policy is stumble_at_first:
        act = act(seed=1, task=None)
    with pytest.raises(CommandFailed, match=BLAMED + WHERE):
        act("observation")


async def test_so_is_what_an_async_policy_raises(chosen: Any):
    found = chosen(stumble_later)
    assert kind_of(found) == kind_of(stumble_later)
    with pytest.raises(CommandFailed, match=BLAMED + WHERE):
        await found("observation")
