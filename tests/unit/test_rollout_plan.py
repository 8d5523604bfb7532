"""Which episodes are played, in which order, and when there are no more."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import envmesh
from envmesh.beginnings import make_beginning
from envmesh.rollout_plan import RolloutPlan


def plan_of(
    episodes: int | None, *, group_size: int = 1, spares: int = 0, seeded: bool = True, **more: Any
) -> RolloutPlan:
    given: dict[str, Any] = {"seeds": None, "tasks": None, "options": None, "retries": 2} | more
    plan = RolloutPlan(
        episodes,
        group_size=group_size,
        members=group_size + spares,
        draw_seed=itertools.count(100).__next__,
        **given,
    )
    plan.start("a run", seeded=seeded)
    return plan


def played(plan: RolloutPlan) -> list[tuple[Any, ...]]:
    following = [beginning for beginning, _ in iter(plan.following, None)]
    return [(each.number, each.seed, each.task, each.group) for each in following]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (plan_of(0), []),
        (plan_of(2), [(0, 100, "", None), (1, 101, "", None)]),
        (plan_of(None, seeds=[7, 8]), [(0, 7, "", None), (1, 8, "", None)]),
        (plan_of(3, seeds=[7, 8]), [(0, 7, "", None), (1, 8, "", None)]),
        (plan_of(None, tasks=["a", "b"]), [(0, 100, "a", None), (1, 101, "b", None)]),
        (plan_of(1, tasks=["a", "b"]), [(0, 100, "a", None)]),
        (plan_of(None, tasks=["a"], seeds=[]), []),
        (plan_of(None, seeds=[7, None, 8]), [(0, 7, "", None), (1, 100, "", None), (2, 8, "", None)]),
        (plan_of(4, group_size=2), [(0, 100, "", 0), (1, 100, "", 0), (2, 101, "", 1), (3, 101, "", 1)]),
        (plan_of(3, group_size=2, spares=1), [(n, 100 + n // 3, "", n // 3) for n in range(6)]),
        (plan_of(1, seeded=False), [(0, None, "", None)]),
        (plan_of(1, seeded=False, seeds=[7]), [(0, 7, "", None)]),  # and the host will refuse it
    ],
)
def test_what_is_planned(plan: RolloutPlan, expected: list[tuple[Any, ...]]):
    assert played(plan) == expected
    assert plan.over
    assert plan.following() is None


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (plan_of(3, seeds=[7, 8]), "the seeds ran out after 2 of 3 episodes"),
        (plan_of(8, group_size=4, spares=1, tasks=["a"]), "the tasks ran out after 4 of 8 episodes"),
        (plan_of(2, seeds=[7, 8]), None),
        (plan_of(None, seeds=[7, 8]), None),
        (plan_of(0, tasks=[]), None),
    ],
)
def test_what_was_not_enough_is_said_in_the_end(plan: RolloutPlan, said: str | None):
    played(plan)
    if said is None:
        plan.check_complete()
    else:
        with pytest.raises(envmesh.InvalidRequest, match=said):
            plan.check_complete()


def test_what_an_earlier_process_has_seen_to_is_left_out():
    plan = plan_of(5)
    plan.leave_out({0, 3})
    assert [number for number, *_ in played(plan)] == [1, 2, 4]


def test_of_a_group_that_is_full_nothing_more_is_played():
    plan = plan_of(6, group_size=2, spares=2)
    for _ in range(3):
        again = plan.following()
    assert again is not None
    plan.play_again(*again)
    plan.give_up(0)
    assert played(plan)[:4] == [(number, 101, "", 1) for number in range(4, 8)]
    plan = plan_of(6, group_size=2, spares=2)
    for _ in range(5):
        plan.following()
    plan.give_up(0)  # long planned; the next one goes on
    assert [number for number, *_ in played(plan)] == list(range(5, 12))


def test_a_group_that_an_earlier_process_has_begun_goes_on_with_its_seed():
    plan = plan_of(6, group_size=2, spares=1)
    plan.leave_out({0, 1})
    begun = make_beginning(7, None, "", "", 1)
    begun.number = 4
    plan.take_up(begun)
    assert played(plan) == [(3, 7, "", 1), (5, 7, "", 1), (6, 102, "", 2), (7, 102, "", 2), (8, 102, "", 2)]


def test_what_is_played_again_goes_before_what_is_planned():
    plan = plan_of(2)
    first = plan.following()
    assert first is not None
    assert first[1] == 2
    plan.play_again(first[0], 1)
    other = plan.following()
    assert other is not None
    assert (other[0].number, other[1]) == (0, 1)
    plan.play_again(*other)
    plan.play_again(first[0], 0, next_of_all=True)
    assert [retries for _, retries in iter(plan.following, None)] == [0, 1, 2]
    assert plan.exhausted
    plan.play_again(*other)
    assert not plan.over


@pytest.mark.parametrize("name", ["seeds", "tasks"])
def test_after_seeds_or_tasks_that_raise_nothing_more_is_planned(name: str):
    raising: dict[str, Any] = {name: (7 // (2 - number) for number in itertools.count())}
    plan = plan_of(None, **raising)
    plan.following()
    plan.following()
    with pytest.raises(ZeroDivisionError):
        plan.following()
    assert plan.over


def test_a_seed_that_is_none():
    plan = plan_of(None, seeds=[-1])
    with pytest.raises(envmesh.InvalidRequest, match="a seed is a whole number"):
        plan.following()
    assert plan.over


def test_how_many_of_a_group_are_to_come():
    plan = plan_of(6, group_size=2, spares=2)
    plan.leave_out({4, 5})
    begun = make_beginning(7, None, "", "", 2)
    begun.number = 9
    plan.take_up(begun)
    assert [plan.to_come(group) for group in range(4)] == [4, 0, 3, 0], "nothing has begun, two groups have"
    first = plan.following()
    plan.following()
    assert first is not None
    assert plan.to_come(0) == 2
    plan.play_again(*first)
    assert plan.to_come(0) == 3
    plan.give_up(0)
    plan.give_up(2)
    assert [plan.to_come(group) for group in range(4)] == [0] * 4
    assert played(plan) == []


def test_a_group_whose_members_have_begun_and_may_have_failed_has_its_spares():
    plan = plan_of(2, group_size=2, spares=1)
    for number in range(2):
        begun = make_beginning(7, None, "", "", 0)
        begun.number = number
        plan.take_up(begun)
    assert played(plan) == [(2, 7, "", 0)]
