"""From the words of `envmesh up` to pools."""

import pytest

from envmesh.target import TargetError
from envmesh_cli.pools import plan_pools

CARTPOLE = "cartpole@2=gymnasium:CartPole-v1"


def test_each_target_is_a_pool_named_after_its_environment():
    plans = plan_pools([CARTPOLE, "gymnasium:Taxi-v3?render_mode=ansi", "my_env.py", "a.b:C.D"], hosts=2)
    assert [(plan.name, plan.hosts) for plan in plans] == [
        ("cartpole", 2), ("Taxi-v3", 2), ("my_env.py", 2), ("C.D", 2),
    ]  # fmt: skip


def test_names_are_made_unique():
    assert [plan.name for plan in plan_pools(["a:C", "b:C", "c:C"])] == ["C", "C-2", "C-3"]


def test_groups_are_pools_with_hosts_of_their_own():
    plans = plan_pools(["a:A"], [["games:3", "x=a:X", "b:Y"], ["more", "c:Z"]], flags=["--slots", "4"])
    assert [(plan.name, plan.targets, plan.hosts) for plan in plans] == [
        ("A", ("a:A",), 1),
        ("games", ("x=a:X", "b:Y"), 3),
        ("more", ("c:Z",), 1),
    ]
    assert {plan.flags for plan in plans} == {("--slots", "4")}


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ([["games"]], "has no environment"),
        ([["games:0", "a:A"]], "1 to 256 hosts; got 0"),
        ([["games:257", "a:A"]], "1 to 256 hosts; got 257"),
        ([["games:x", "a:A"]], "NAME:HOSTS"),
        ([["a=b:C", "a:A"]], "a pool's name comes first"),
        ([["-bad", "a:A"]], "cannot be a pool's name"),
        ([["p", "a:A"], ["p", "a:B"]], "two pools named 'p'"),
        ([["p", ""]], "has no target"),
        ([], "nothing to serve"),
    ],
)
def test_mistakes_say_what_would_be_right(groups: list[list[str]], sentence: str):
    with pytest.raises(TargetError, match=sentence):
        plan_pools([], groups)
