"""What the page is sent is JSON that a browser reads, whatever hosts say."""

import json
import math
import sys

import pytest

from envmesh.v1 import fleet_pb2
from envmesh_broker.page import picture
from envmesh_broker.page.history import History
from envmesh_broker.page.server import _event

NO_NUMBERS = [math.nan, math.inf, -math.inf]


def read(event: bytes):
    """As a browser does, which knows neither NaN nor Infinity."""

    def refuse(word: str):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(event.partition(b"data: ")[2], parse_constant=refuse)


def report(ended: int, returns: float):
    load = fleet_pb2.EnvironmentLoad(environment="echo@1", steps=ended, ended=ended, return_sum=returns)
    return fleet_pb2.HostReport(environments=[load])


@pytest.mark.parametrize("returns", [*NO_NUMBERS, 1.7e308, -1.7e308])
def test_returns_that_are_no_number_are_not_told(returns):
    history = History()
    history.observe(0.0, {"a": report(0, 0.0)})
    history.observe(1.0, {"a": report(1, returns)})
    now = read(_event("now", picture.now(fleet_pb2.Fleet(), history, 1.0)))
    beginning = read(_event("beginning", picture.beginning(history)))
    assert now["points"]["echo@1"] == beginning["history"]["echo@1"][-1]
    mean = now["points"]["echo@1"][4]
    assert mean is None if not math.isfinite(returns) else mean == pytest.approx(returns, rel=1e-4)


def test_a_mean_that_is_rounded_beyond_all_numbers_is_not_told():
    history = History()
    history.observe(0.0, {"a": report(0, 0.0)})
    history.observe(1.0, {"a": report(1, sys.float_info.max)})
    assert read(_event("now", picture.now(fleet_pb2.Fleet(), history, 1.0)))["points"]["echo@1"][4] is None


@pytest.mark.parametrize("wrong", NO_NUMBERS)
def test_what_a_host_says_of_itself_that_is_no_number_is_not_told(wrong):
    fleet = fleet_pb2.Fleet()
    fleet.hosts.add(report=fleet_pb2.HostReport(event_loop_lag=wrong, cpu_seconds=wrong))
    (host,) = read(_event("now", picture.now(fleet, History(), 1.0)))["hosts"]
    assert (host["lag"], host["cpu"]) == (None, None)


@pytest.mark.parametrize("wrong", NO_NUMBERS)
def test_a_followed_step_with_a_reward_that_is_no_number_is_told_without_it(wrong):
    told = fleet_pb2.WatchedSteps(steps=[fleet_pb2.WatchedStep(index=1, reward=wrong, seconds=wrong)])
    (step,) = read(_event("steps", picture.steps(told)))["steps"]
    assert (step["index"], step["reward"], step["seconds"]) == (1, None, None)
