"""What a report says, without a browser: the numbers, what it leaves out, and what it does with bad input."""

from pathlib import Path

import numpy as np
import pytest

from envmesh.outcome import EnvironmentSpec, Resume, Trajectory
from envmesh.v1 import environment_pb2 as pb
from envmesh.values import encode
from envmesh_cli.failures import CommandFailed
from envmesh_cli.report.charts import values
from envmesh_cli.report.elements import readable
from envmesh_cli.report.episodes import shown_steps
from envmesh_cli.report.gather import Stay, gather, occupancy
from envmesh_cli.report.measures import measure, quantile
from envmesh_cli.report.page import render


def trajectory(steps: int, seconds: float, ended_at: float = 0.0) -> Trajectory:
    made = Trajectory(
        EnvironmentSpec(pb.EnvironmentInfo(name="echo", version="1")), bytes(16), seed=1, options=None
    )
    made.fill(
        [(encode("x"), 1.0 * (n > 0), int(n == steps), n, b"") for n in range(steps + 1)], [encode("a")] * steps
    )  # fmt: skip
    made.flags, made.seconds, made.ended_at, made.host = 1, seconds, ended_at, "a:1"
    return made


def test_an_episode_is_on_each_of_its_hosts_in_turn():
    moved = trajectory(9, 10.0, ended_at=110.0)
    moved.resumes = (Resume(index=4, cause="closed", seconds=1, replayed=4, from_host="b:1", to_host="a:1"),)
    run = gather([moved])
    assert run.stays == [Stay("b:1", 100.0, 105.0), Stay("a:1", 105.0, 110.0)]
    assert (run.begin, run.end) == (100.0, 110.0)


def test_occupancy_adds_up_to_the_time_lived():
    stays = [Stay("a", 0.0, 2.5), Stay("a", 1.25, 1.3), Stay("b", 7.5, 10.0)]
    found = occupancy(stays, 0.0, 10.0, 7)
    lived = {host: float(row.sum()) * 10.0 / 7 for host, row in found.items()}
    assert lived == pytest.approx({"a": 2.55, "b": 2.5})


def test_a_stay_that_begins_where_the_run_ends_adds_nothing():
    """The last episode to end was rebuilt after its last step: to be graded, say."""
    rebuilt = trajectory(9, 10.0, ended_at=110.0)
    rebuilt.resumes = (
        Resume(index=9, cause="closed", seconds=1, replayed=9, from_host="b:1", to_host="a:1"),
    )
    run = gather([rebuilt])
    assert run.stays[-1] == Stay("a:1", 110.0, 110.0)
    found = occupancy(run.stays, run.begin, run.end, 7)
    assert (found["a:1"].sum(), found["b:1"].sum()) == pytest.approx((0.0, 7.0))
    assert "b:1" in render(run, [], "rebuilt")


def test_a_recording_without_times_still_makes_a_page():
    page = render(gather([trajectory(3, 1.0)]), [], "old")
    assert "does not say when its episodes ended" in page
    assert "no times of single steps" in page


def test_an_empty_recording_makes_a_page():
    assert "The recording holds none." in render(gather([]), [], "empty")


def test_long_episodes_show_their_ends_and_their_slowest_steps():
    times = np.full(5000, 0.01)
    times[2222] = 9.0
    chosen = shown_steps(5001, times.tolist())
    assert len(chosen) <= 200
    assert {0, 2223, 5000} <= set(chosen)


def test_control_characters_are_made_visible():
    assert readable("a\x00b\x1b[31m\ud800\n") == "a\ufffdb\ufffd[31m\ufffd\n"


def test_a_quantile_lies_between_its_bucket_s_edges():
    assert quantile({0.1: 50, 0.2: 100, float("inf"): 100}, 0.75) == pytest.approx(0.15)
    assert quantile({0.1: 0, float("inf"): 10}, 0.5) == 0.1


def test_metrics_of_several_processes_are_added_up(tmp_path: Path):
    line = 'envmesh_step_duration_seconds_bucket{{environment="{}",le="{}"}} {}\n'
    for name in ("a", "b"):
        text = "# TYPE envmesh_step_duration_seconds histogram\n"
        text += line.format(name, "0.1", 5) + line.format(name, "+Inf", 10)
        (tmp_path / name).write_text(text)
    (part,) = measure([str(tmp_path / "a"), str(tmp_path / "b")])
    assert (part.part, part.count) == ("step, in the environment", 20)


@pytest.mark.parametrize("text", ["", "<html>no metrics</html>\n", "a{ 3\n"])
def test_what_is_no_metrics_is_told(tmp_path: Path, text: str):
    (tmp_path / "m").write_text(text)
    with pytest.raises(CommandFailed, match="metrics"):
        measure([str(tmp_path / "m")])


@pytest.mark.parametrize("value", [0.0, -3.0, 1e17, -1e300])
def test_one_value_however_large_is_one_bar(value: float):
    drawing = values(np.full(3, value), "returns")
    (bar,) = drawing.iter("rect")
    assert float(bar.get("width", 0)) > 100
