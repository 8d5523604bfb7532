import math

import pytest

from envmesh_autoscaler.demand import Demand, PoolPolicy, Signals


def terms_over(policy, rows, *, step=1.0, idle=False, **signals):
    """The terms after each of ``rows``: demand, a second apart (or ``step``)."""
    demand = Demand(policy, 0.0, idle=idle)
    found = []
    for number, leased in enumerate(rows):
        found.append(demand.terms(Signals(leased=leased, slots=8, **signals), number * step))
    return found


@pytest.mark.parametrize(
    ("leased", "queued", "reserved", "fill", "hosts"),
    [
        (0, 0, 0, 1.0, 1),  # busy until idle_after is over: the buffer of one slot
        (8, 0, 0, 1.0, 2),  # a full host and a buffer
        (7, 0, 0, 1.0, 2),  # ceil(sqrt(7)) = 3
        (4, 1, 0, 1.0, 1),
        (0, 64, 0, 1.0, 9),
        (0, 0, 64, 1.0, 9),
        (64, 0, 0, 0.5, 18),
        (10_000, 0, 0, 1.0, 50),  # max_hosts
    ],
)
def test_hosts_are_demand_and_buffer_over_slots(leased, queued, reserved, fill, hosts):
    policy = PoolPolicy(max_hosts=50, target_fill=fill)
    signals = Signals(leased=leased, queued=queued, reserved=reserved, slots=8)
    assert Demand(policy, 0.0).terms(signals, 0.0).hosts == hosts


def test_nothing_for_idle_after_is_nothing_at_all():
    policy = PoolPolicy(idle_after=10.0, look_back=5.0)
    hosts = [t.hosts for t in terms_over(policy, [3] + [0] * 30)]
    assert hosts[10] == 1
    assert hosts[-1] == 0
    assert hosts.index(0) == 15  # idle_after, then the look-back


def test_a_pool_that_begins_idle_wants_nothing():
    assert [t.hosts for t in terms_over(PoolPolicy(), [0, 0, 0], idle=True)] == [0, 0, 0]


def test_the_minimum_holds_when_nothing_is_wanted():
    found = terms_over(PoolPolicy(min_hosts=2), [0], idle=True)[0]
    assert (found.hosts, found.reason) == (2, "min_hosts 2")


def test_the_look_back_keeps_what_was_wanted():
    policy = PoolPolicy(look_back=20.0, max_hosts=100)
    hosts = [t.hosts for t in terms_over(policy, [100] * 5 + [10] * 30)]
    assert hosts[4] == hosts[20] == 14
    assert hosts[-1] == 2


def test_a_bulk_request_is_no_trend():
    found = terms_over(PoolPolicy(), [0] * 60 + [1000] * 60)
    assert max(t.trend for t in found) == 0.0


def test_a_steady_ramp_is_extrapolated_over_the_start_of_a_host():
    found = terms_over(PoolPolicy(max_hosts=1000), [10 * n for n in range(120)], start=20.0)[-1]
    assert found.trend == pytest.approx(10.0)
    assert found.forecast == pytest.approx(1190 + 200)


def test_a_trend_looks_no_further_than_a_slot_is_in_use():
    found = terms_over(PoolPolicy(), [10 * n for n in range(120)], start=20.0, residence=2.0)[-1]
    assert found.forecast == pytest.approx(1190 + 20)


def test_a_forecast_is_at_most_twice_what_is():
    found = terms_over(PoolPolicy(), list(range(120)), start=300.0)[-1]
    assert found.forecast == pytest.approx(2 * 119)


def test_falling_demand_has_no_trend():
    assert terms_over(PoolPolicy(), [1000 - 5 * n for n in range(120)])[-1].trend == 0.0


def test_a_pool_of_unknown_size_asks_for_one_host():
    assert Demand(PoolPolicy(), 0.0).terms(Signals(queued=500), 0.0).hosts == 1


@pytest.mark.parametrize("wrong", [{"min_hosts": -1}, {"max_hosts": 0}, {"min_hosts": 5, "max_hosts": 4},
                                   {"target_fill": 0.0}, {"buffer_factor": math.nan}, {"look_back": -1}])  # fmt: skip
def test_impossible_policies_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        PoolPolicy(**wrong)


def test_an_environment_of_which_a_host_may_have_few_needs_its_own_hosts():
    policy = PoolPolicy(max_hosts=10, look_back=5.0)
    demand = Demand(policy, 0.0)
    assert demand.terms(Signals(leased=8, slots=4096, bounded=4), 0.0).hosts == 4
    assert demand.terms(Signals(leased=2, slots=4096, bounded=1), 4.0).hosts == 4  # the look-back holds it
    assert demand.terms(Signals(leased=2, slots=4096, bounded=1), 9.0).hosts == 1
