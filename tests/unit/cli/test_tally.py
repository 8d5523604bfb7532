"""The report of `envmesh run`, from trajectories."""

import pytest

from envmesh.errors import Failure
from envmesh.outcome import EnvironmentSpec, Trajectory
from envmesh.v1 import environment_pb2 as pb
from envmesh_cli.tables import rate, seconds
from envmesh_cli.tally import Tally, latencies, merged

SPEC = EnvironmentSpec(pb.EnvironmentInfo(name="echo", version="1"))


def trajectory(rewards: list[float], *, flags: int = 1, failure: Failure | None = None) -> Trajectory:
    made = Trajectory(SPEC, b"\0" * 16, seed=1, options=None)
    made.fill([(b"", reward, 0, 0, b"") for reward in (0.0, *rewards)], [b""] * len(rewards))
    made.flags, made.failure = flags, failure
    return made


def test_a_report_counts_outcomes_failures_rewards_and_lengths():
    counts = Tally("echo@1", peak=3, seconds=2.0)
    counts.add(trajectory([1.0, 2.0]))
    counts.add(trajectory([-1.0], flags=2))
    counts.add(trajectory([5.0], flags=0, failure=Failure.of("WORKER_CRASHED", "it fell")))
    report = counts.report()
    assert (report["episodes"], report["steps"], report["seconds"]) == (3, 4, 2.0)
    assert (report["episodes_per_second"], report["steps_per_second"]) == (1.5, 2.0)
    assert report["reward"] == {"mean": 1.0, "min": -1.0, "max": 3.0}, "a failed episode has no reward"
    assert report["episode_length"] == {"mean": pytest.approx(4 / 3), "max": 2}
    assert report["outcomes"] == {"terminated": 1, "truncated": 1, "failed": 1}
    assert report["failures"] == {"WORKER_CRASHED": 1}
    assert counts.messages == {"WORKER_CRASHED": "it fell"}


def test_what_was_not_measured_is_null():
    report = Tally("echo@1").report()
    assert report["reward"] == {"mean": None, "min": None, "max": None}
    assert report["step_seconds"] == {"p50": None, "p90": None, "p99": None}
    assert report["steps_per_second"] == 0.0


def test_latencies_are_quantiles():
    assert latencies([0.001 * n for n in range(101)]) == pytest.approx(
        {"p50": 0.05, "p90": 0.09, "p99": 0.099}
    )


def test_tallies_add_up():
    first, second = Tally("a", seconds=1.0, step_seconds=[0.1]), Tally("b", seconds=1.0, step_seconds=[0.3])
    first.add(trajectory([1.0]))
    second.add(trajectory([1.0], failure=Failure.of("EXPIRED")))
    whole = merged([first, second], 1.0)
    assert (whole.episodes, whole.failed, whole.all_steps) == (2, 1, 2)
    assert whole.report()["step_seconds"]["p50"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0.0000125, "12.5 µs"),
        (0.00123, "1.23 ms"),
        (0.5, "500 ms"),
        (2.5, "2.5 s"),
        (1234.0, "1,234 s"),
    ],
)
def test_durations_have_three_digits(value: float | None, words: str):
    assert seconds(value) == words


def test_rates_are_short():
    assert [rate(value) for value in (0.1234, 12.345, 1234.5)] == ["0.123", "12.3", "1,234"]
