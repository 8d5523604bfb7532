import pytest
from hypothesis import given
from hypothesis import strategies as st

from envmesh_broker.fairness import Usage, shares


@pytest.mark.parametrize(
    ("capacity", "demand", "weights", "expected"),
    [
        (10, {"a": 20, "b": 20}, {}, {"a": 5, "b": 5}),
        (10, {"a": 2, "b": 20}, {}, {"a": 2, "b": 8}),
        (12, {"a": 20, "b": 20}, {"a": 3.0}, {"a": 9, "b": 3}),
        (10, {"a": 1, "b": 2}, {}, {"a": 1, "b": 2}),
        (10, {"a": 0, "b": 20}, {}, {"b": 10}),
        (0, {"a": 5}, {}, {"a": 0}),
        (10, {}, {}, {}),
    ],
)
def test_shares(capacity, demand, weights, expected):
    assert shares(capacity, demand, weights, {}) == expected


def test_the_slots_that_fractions_leave_go_to_who_has_had_the_least_for_its_weight():
    demand = dict.fromkeys("abc", 9)
    had = {"a": 90.0, "b": 60.0, "c": 80.0}
    assert shares(2, demand, {}, had) == {"a": 0, "b": 1, "c": 1}
    assert shares(2, demand, {"a": 2.0}, had) == {"a": 1, "b": 1, "c": 0}
    assert shares(10, {"a": 99, "b": 99}, {"a": 99.0}, {"a": 1e6, "b": 5.0}) == {"a": 9, "b": 1}
    assert shares(10, {"a": 99, "b": 99}, {"a": 99.0}, {"a": 0.0, "b": 50.0}) == {"a": 10, "b": 0}


tenants = st.sampled_from("abcdef")


@given(
    st.integers(0, 1_000),
    st.dictionaries(tenants, st.integers(0, 500)),
    st.dictionaries(tenants, st.floats(0.1, 10)),
    st.dictionaries(tenants, st.floats(0, 1e5)),
)
def test_shares_give_nobody_more_than_it_wants_and_leave_nothing_over(capacity, demand, weights, had):
    given_ = shares(capacity, demand, weights, had)
    assert all(given_[tenant] <= demand[tenant] for tenant in given_)
    assert sum(given_.values()) == min(capacity, sum(demand.values()))
    short = [t for t in given_ if given_[t] < demand[t]]
    for (
        tenant
    ) in short:  # who gets less than it wants has, for its weight, no less than anybody else, but for a slot
        for other in given_:
            assert (given_[other] - 1) / weights.get(other, 1.0) <= (given_[tenant] + 1) / weights.get(
                tenant, 1.0
            ) + 1e-6


def test_usage_is_slot_seconds_and_fades():
    usage = Usage(0.0, half_life=100.0)
    usage.advance({"a": 10}, 1.0)
    assert usage.of("a") == pytest.approx(10, rel=0.01)
    usage.advance({}, 101.0)
    assert usage.of("a") == pytest.approx(5, rel=0.01)
    usage.advance({}, 100_000.0)
    assert usage.of("a") == 0.0
    usage.advance({"b": 1}, 50.0)  # time does not go back
    assert usage.of("b") == 0.0


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=10))
def test_usage_does_not_depend_on_how_often_it_is_advanced(steps):
    often, once, now = Usage(0.0), Usage(0.0), 0.0
    for step in steps:
        now += step
        often.advance({"a": 3}, now)
    once.advance({"a": 3}, now)
    assert often.of("a") == pytest.approx(once.of("a"))
