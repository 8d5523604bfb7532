"""Looking at an episode leaves no trace in it, whatever it does and whoever looks."""

from typing import Any

import numpy as np
import pytest

from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import fleet_pb2
from envmesh_host.taps import MOST_CHARACTERS, Taps, shown


class Environment:
    key = "echo@1"
    info = pb.EnvironmentInfo(name="echo", version="1")


class Copy:
    """As much of a copy as a tap sees."""

    def __init__(self, number: int, play: Any = None):
        self.episode_id = bytes([number]) * 16
        self.environment = Environment()
        self.index = 0
        self.ended = False
        self.play = play

    def step(self, action: Any) -> Any:
        result = self.play(action)
        self.index += 1
        return result


class Roster:
    def __init__(self, *copies: Copy):
        self.episodes = {copy.episode_id: copy for copy in copies}
        self.taps: dict[bytes, Any] = {}


def plays(action: Any) -> Any:
    return np.array([1.0, 2.0]), 0.5, False, False, {}


def watching(roster: Any, **watch: Any) -> tuple[Taps, list[int]]:
    calls: list[int] = []
    taps = Taps(roster, lambda: calls.append(1))
    taps.watch([fleet_pb2.Watch(watch_id=1, **watch)])
    return taps, calls


def test_the_newest_episode_is_followed_and_left_as_it_was():
    old, new = Copy(1, plays), Copy(2, plays)
    taps, calls = watching(Roster(old, new), environment="echo@1", values=True)
    assert old.play is plays
    new.step("hello")
    (told,) = taps.take()
    (step,) = told.steps
    assert (told.episode_id, step.index, step.reward, step.action) == (
        new.episode_id,
        1,
        0.5,
        '"hello"'.strip('"'),
    )
    assert step.observation == "[1., 2.]"
    assert calls
    taps.watch([])
    assert new.play is plays


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_no_number_is_told_as_the_failure_that_it_is(reward):
    copy = Copy(1, lambda action: ("there", reward, False, False, {}))
    taps, _ = watching(Roster(copy), environment="echo@1", values=True)
    copy.step("go")
    (told,) = taps.take()
    (step,) = told.steps
    assert (step.reward, step.failure, step.observation) == (0.0, "REWARD_INVALID", "there")


def test_values_are_not_looked_at_unless_asked():
    class Secret:
        def __repr__(self) -> str:
            raise AssertionError("somebody looked")

    copy = Copy(1, lambda action: (Secret(), 1.0, False, False, {}))
    taps, _ = watching(Roster(copy), environment="echo@1")
    copy.step(Secret())
    (told,) = taps.take()
    assert (told.steps[0].action, told.steps[0].observation) == ("", "")


def test_an_exception_passes_and_is_told():
    def raises(action: Any) -> Any:
        raise ZeroDivisionError

    copy = Copy(1, raises)
    taps, _ = watching(Roster(copy), environment="echo@1")
    try:
        copy.step(1)
    except ZeroDivisionError:
        pass
    assert taps.take()[0].steps[0].failure == "ZeroDivisionError"


def test_what_is_no_outcome_is_told_and_passed_on():
    copy = Copy(1, lambda action: None)
    taps, _ = watching(Roster(copy), environment="echo@1", values=True)
    assert copy.step(1) is None
    assert taps.take()[0].steps[0].failure == "OUTCOME_INVALID"


def test_when_an_episode_is_over_the_next_one_is_followed():
    roster = Roster(Copy(1, plays))
    first = roster.episodes[bytes([1]) * 16]
    taps, _ = watching(roster, environment="echo@1")
    first.ended = True
    assert taps.take()[0].over
    assert first.play is plays
    assert roster.taps == {}
    second = Copy(2, plays)
    roster.episodes[second.episode_id] = second
    assert taps.take()[0].episode_id == second.episode_id


def test_one_episode_is_followed_once():
    copy = Copy(1, plays)
    roster = Roster(copy)
    taps, _ = watching(roster, episode_id=copy.episode_id)
    del roster.episodes[copy.episode_id]
    assert taps.take()[0].over
    roster.episodes[copy.episode_id] = copy
    assert taps.take() == []


def test_many_steps_are_bounded_and_counted():
    copy = Copy(1, plays)
    taps, _ = watching(Roster(copy), environment="echo@1")
    for _ in range(500):
        copy.step(1)
    (told,) = taps.take()
    assert (len(told.steps), told.skipped, told.steps[-1].index) == (200, 300, 500)


def test_long_and_strange_values_are_cut_or_said_so():
    assert len(shown(lambda: "x" * 100_000)) == MOST_CHARACTERS
    assert shown(lambda: np.zeros((64, 64, 3), np.uint8)).startswith("uint8[64, 64, 3]")
    assert shown(lambda: "\ud800") == "?"
    assert "cannot be shown" in shown(lambda: 1 / 0)
