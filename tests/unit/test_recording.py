"""Recordings keep where and when an episode was played, and those without it are still read."""

import json
from pathlib import Path

import pytest

from envmesh.errors import InvalidRequest
from envmesh.outcome import EnvironmentSpec, Resume, Trajectory
from envmesh.recording import Recorder, read
from envmesh.v1 import environment_pb2 as pb
from envmesh.values import encode

RESUME = Resume(
    index=1, cause="closed", seconds=0.25, replayed=1, from_host="10.0.0.1:7070", to_host="10.0.0.2:7070"
)


def trajectory(rewards: tuple[float, float] = (1.0, 2.0), info: bytes = b"", **fields: object) -> Trajectory:
    spec = EnvironmentSpec(pb.EnvironmentInfo(name="echo", version="1", build="b"))
    made = Trajectory(spec, bytes(16), seed=1, options=None)
    rows = [(encode(f"row {n}"), reward, 0, n, info) for n, reward in enumerate((0.0, *rewards))]
    made.fill(rows, [encode("a"), encode("b")])
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def written(path: Path, made: Trajectory) -> Trajectory:
    recorder = Recorder.open(path)
    recorder.write(made)
    recorder.close()
    (found,) = read(path)
    return found


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_circumstances_come_back(tmp_path: Path, suffix: str):
    pytest.importorskip("pyarrow") if suffix == "parquet" else None
    made = trajectory(ended_at=1.7e9, host="10.0.0.2:7070", resumes=(RESUME,), step_seconds=[0.25, 0.5])
    found = written(tmp_path / f"run.{suffix}", made)
    assert (found.ended_at, found.host, found.resumes) == (1.7e9, "10.0.0.2:7070", (RESUME,))
    assert found.step_seconds == [0.25, 0.5]
    assert found.digests == made.digests


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_steps_that_were_not_measured_have_no_times(tmp_path: Path, suffix: str):
    pytest.importorskip("pyarrow") if suffix == "parquet" else None
    found = written(tmp_path / f"run.{suffix}", trajectory())
    assert found.step_seconds is None
    assert found.ended_at > 1.7e9


def test_a_recording_of_an_older_client_is_read(tmp_path: Path):
    new, old = tmp_path / "new.jsonl", tmp_path / "old.jsonl"
    written(new, trajectory(step_seconds=[0.25, 0.5]))
    lines = [json.loads(line) for line in new.read_text().splitlines()]
    for name in ("ended_at", "host", "resumes", "step_seconds"):
        del lines[-1][name]
    old.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found,) = read(old)
    assert (found.ended_at, found.host, found.resumes, found.step_seconds) == (0.0, "", (), None)
    assert found.rewards == [1.0, 2.0]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rewards_whose_sum_is_too_large_are_recorded(tmp_path: Path, suffix: str):
    pytest.importorskip("pyarrow") if suffix == "parquet" else None
    made = trajectory(rewards=(1.5e308, 1.5e308))
    assert made.return_ == float("inf")
    found = written(tmp_path / f"run.{suffix}", made)
    assert (found.rewards, found.return_) == (made.rewards, made.return_)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_two_recordings_are_never_written_to_one_file(tmp_path: Path, suffix: str):
    pytest.importorskip("pyarrow") if suffix == "parquet" else None
    path = tmp_path / f"run.{suffix}"
    first = Recorder.open(path)
    with pytest.raises(InvalidRequest, match="exists"):
        Recorder.open(path)
    first.write(trajectory())
    first.close()
    assert len(list(read(path))) == 1


def test_a_row_group_is_bounded_by_all_that_its_rows_hold(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "run.parquet"
    recorder = Recorder.open(path)
    for _ in range(4):
        recorder.write(trajectory(info=encode({"log": bytes(1_000_000)}), annotations={1: bytes(2_000_000)}))
    recorder.close()
    with parquet.ParquetFile(path) as file:
        assert file.num_row_groups == 2
    assert [found.infos[2]["log"] for found in read(path)] == [bytes(1_000_000)] * 4


def test_a_recording_begins_where_others_crashed_and_keeps_what_they_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    pytest.importorskip("pyarrow")
    path, partial = tmp_path / "run.parquet", tmp_path / "run.parquet.partial"
    for left in (b"PAR1 the first", b"PAR1 the second"):
        partial.write_bytes(left)
        assert len(written(path, trajectory())) == 2
        path.unlink()
    kept = [tmp_path / f"run.parquet.partial.{number}" for number in (1, 2)]
    assert [file.read_bytes() for file in kept] == [b"PAR1 the first", b"PAR1 the second"]
    assert f"kept as {kept[1]}" in caplog.text
    assert set(tmp_path.iterdir()) == set(kept)


def test_nothing_is_kept_of_a_recording_that_crashed_before_it_held_anything(tmp_path: Path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "run.parquet"
    path.with_name("run.parquet.partial").write_bytes(b"PAR1")
    written(path, trajectory())
    assert list(tmp_path.iterdir()) == [path]


def test_a_recording_leaves_its_place_to_the_next_when_it_is_closed(tmp_path: Path):
    pytest.importorskip("pyarrow")
    path, moved = tmp_path / "run.parquet", tmp_path / "moved.parquet"
    written(path, trajectory())
    path.rename(moved)
    written(path, trajectory())
    assert len(list(read(moved))) == len(list(read(path))) == 1
