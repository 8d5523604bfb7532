"""Rates and quantiles out of the totals that hosts report."""

import pytest

from envmesh.v1 import fleet_pb2
from envmesh_broker.page.history import BUCKETS, History, quantile
from envmesh_broker.page.watches import MOST_FOLLOWERS, Watches


def report(
    steps: int, *, ended: int = 0, failed: int = 0, returns: float = 0.0, live: int = 1, bucket: int = 4
):
    buckets = [0] * BUCKETS
    buckets[bucket] = steps
    load = fleet_pb2.EnvironmentLoad(
        environment="echo@1", steps=steps, ended=ended, failed=failed, return_sum=returns, live=live,
        step_buckets=buckets,
    )  # fmt: skip
    return fleet_pb2.HostReport(environments=[load])


def test_a_host_that_was_there_before_is_no_burst():
    history = History()
    history.observe(0.0, {"a": report(1_000_000)})
    history.observe(1.0, {"a": report(1_000_100)})
    assert history.points["echo@1"][-1].steps == pytest.approx(100)


def test_hosts_add_up_and_returns_are_means():
    history = History()
    history.observe(0.0, {"a": report(0), "b": report(0)})
    history.observe(
        2.0, {"a": report(100, ended=3, returns=6.0), "b": report(50, ended=1, returns=2.0, failed=1)}
    )
    point = history.points["echo@1"][-1]
    assert (point.live, point.steps, point.episodes, point.failed, point.mean_return) == (2, 75, 2.5, 1, 2.0)
    assert point.p50 is not None
    assert point.p99 is not None
    assert 0.001 > point.p99 > point.p50 > 0.0003


def test_a_host_that_began_anew_counts_from_zero():
    history = History()
    history.observe(0.0, {"a": report(1000, ended=10)})
    history.observe(1.0, {"a": report(5, ended=1, returns=1.0)})
    point = history.points["echo@1"][-1]
    assert (point.steps, point.mean_return) == (5, 1.0)


def test_nothing_happening_is_no_number():
    history = History()
    history.observe(0.0, {"a": report(7)})
    history.observe(1.0, {"a": report(7)})
    point = history.points["echo@1"][-1]
    assert (point.steps, point.mean_return, point.p50) == (0.0, None, None)


def test_it_is_bounded():
    history = History()
    for second in range(700):
        history.observe(float(second), {"a": report(second)})
    assert len(history.points["echo@1"]) == 600
    history.observe(700.0, {})
    assert history.points["echo@1"][-1].live == 0


def test_beyond_the_last_bound_is_that_bound():
    assert quantile([0] * (BUCKETS - 1) + [3], 0.5) == 100.0


def test_followers_are_bounded_and_go_where_episodes_are():
    watches = Watches()
    one = watches.follow(environment="echo@1")
    assert one is not None
    watches.assign({"a": report(1, live=2), "b": report(1, live=5)})
    assert one.host_id == "b"
    watches.assign({"a": report(1, live=9), "b": report(1, live=1)})
    assert one.host_id == "b"
    watches.assign({"a": report(1, live=9), "b": report(1, live=0)})
    assert (one.host_id, list(watches.of_host("b")), len(list(watches.of_host("a")))) == ("a", [], 1)
    others = [watches.follow(environment="echo@1") for _ in range(MOST_FOLLOWERS)]
    assert others[-1] is None
