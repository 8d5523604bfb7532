"""Recordings: trajectories in a file, exact enough to be replayed, readable where that is possible.

Beside what happened in an episode a recording says where and when: ``ended_at``, ``host``, ``resumes`` and, where the
steps were measured, ``step_seconds``. Recordings of older clients lack these, and are read as well.

``.jsonl`` is one JSON object a line: first what the file is, then each environment before its first episode, then the
trajectories. What was written survives a crash, but for the last second or so; a torn last line is skipped when
reading. ``.parquet`` has one row a trajectory with values as canonical bytes, and can be read once it was closed;
until then it is called ``….parquet.partial``. What a crash leaves under that name has whole row groups and no footer,
so it takes a tool that repairs Parquet to read it. It stands in nobody's way: the next recording of the same name keeps
it aside, as ``….parquet.partial.1`` and so on, and says so in a warning.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf import json_format

from envmesh.env import RewardResult
from envmesh.errors import Failure, InvalidRequest
from envmesh.outcome import AGENTS, EnvironmentSpec, Resume, Trajectory
from envmesh.recorded_values import agents_to_json, payload_from_json, payload_to_json
from envmesh.v1 import environment_pb2 as pb
from envmesh.values import decode, encode

__all__ = ["FORMAT_VERSION", "Recorder", "read"]

log = logging.getLogger("envmesh.client")

FORMAT_VERSION = 1
FLUSH_BYTES = 1 << 20
FLUSH_SECONDS = 1.0


class Recorder(abc.ABC):
    """Where trajectories are recorded. ``Recorder.open`` makes one."""

    @abc.abstractmethod
    def write(self, trajectory: Trajectory) -> None:
        """Add a trajectory. Buffered: costs about its own size in memory, and now and then a write.

        Raises:
            InvalidRequest: one of its annotations has no form in the protocol; nothing of it was written.
            OSError: the file cannot be written.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Write what is left and close the file."""

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Recorder:
        """A new recording, ``.jsonl`` or ``.parquet`` by its suffix; a file that exists is never overwritten, and what
        a crash left of one is kept.

        Raises:
            InvalidRequest: another suffix, or the file exists or is being written. MissingExtra: Parquet needs
                ``envmesh[parquet]``.
            OSError: the file cannot be created.
        """
        path = Path(path)
        if path.exists():
            raise InvalidRequest(
                f"{path} exists; recordings are never overwritten: name another file or move it"
            )
        if path.suffix == ".jsonl":
            return _JsonLines(path)
        if path.suffix == ".parquet":
            from envmesh.recording_parquet import ParquetRecorder

            return ParquetRecorder(path)
        raise InvalidRequest(f"a recording is a .jsonl or .parquet file; got {path.name}")


def read(path: str | os.PathLike[str]) -> Iterator[Trajectory]:
    """The trajectories of a recording, in the order in which they ended.

    Raises:
        InvalidRequest: the file is no recording, or is damaged; the message names the line or row.
        MissingExtra: Parquet needs ``envmesh[parquet]``.
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        return _read_lines(path)
    if path.suffix == ".parquet":
        from envmesh.recording_parquet import read_rows

        return read_rows(path)
    raise InvalidRequest(f"a recording is a .jsonl or .parquet file; got {path.name}")


class _JsonLines(Recorder):
    """Writes whole lines only, so that a crash tears at most the last one."""

    def __init__(self, path: Path):
        self._path = path
        self._file: BinaryIO = path.open("xb", buffering=0)
        self._lines: list[bytes] = [_line({"kind": "recording", "format": FORMAT_VERSION})]
        self._bytes = 0
        self._flushed = time.monotonic()
        self._known: set[tuple[str, str]] = set()

    def write(self, trajectory: Trajectory) -> None:
        stamp(trajectory)
        form = trajectory_form(trajectory)
        spec = trajectory.spec
        if (spec.key, spec.build) not in self._known:
            self._known.add((spec.key, spec.build))
            described = json_format.MessageToDict(spec.message, preserving_proto_field_name=True)
            self._lines.append(_line({"kind": "environment", **described}))
        line = _line(form)
        self._lines.append(line)
        self._bytes += len(line)
        now = time.monotonic()
        if self._bytes >= FLUSH_BYTES or now - self._flushed >= FLUSH_SECONDS:
            self._flush()
            self._flushed = now

    def close(self) -> None:
        if self._file.closed:
            return
        try:
            self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        data = memoryview(b"".join(self._lines))
        self._lines.clear()
        self._bytes = 0
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


# ---- trajectories


def trajectory_form(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as a JSON object. Raises: InvalidRequest as ``Recorder.write``."""
    spec = trajectory.spec
    observe, act = spec.observation_codec, spec.action_codec
    observations = trajectory.packed_observations
    grade, failure = trajectory.grade, trajectory.failure
    return {
        "kind": "trajectory",
        "environment": trajectory.environment,
        "version": trajectory.version,
        "build": trajectory.build,
        "episode_id": trajectory.episode_id.hex(),
        "seed": trajectory.seed,
        "task": trajectory.task,
        "split": trajectory.split,
        "group": trajectory.group,
        "options": payload_to_json(trajectory.packed_options) if trajectory.packed_options else None,
        "outcome": trajectory.outcome,
        "return": _finite(trajectory.return_),
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        "flags": trajectory.flags,
        "seconds": trajectory.seconds,
        **circumstances(trajectory),
        "observations": [
            agents_to_json(data) if spec.agents else payload_to_json(data, observe) for data in observations
        ],
        "actions": [payload_to_json(data, act) for data in trajectory.packed_actions],
        "rewards": trajectory.rewards,
        "digests": [f"{digest:016x}" for digest in trajectory.digests],
        "infos": {str(index): payload_to_json(data) for index, data in trajectory.packed_infos.items()},
        "annotations": {str(i): payload_to_json(data) for i, data in packed_annotations(trajectory).items()},
        "grade": None if grade is None else grade_form(grade),
        "failure": None if failure is None else failure_form(failure),
    }


def _finite(number: float | None) -> float | None:
    """JSON has no infinity; a sum of rewards that is too large for a double is left out, for the rewards say it."""
    return number if number is not None and math.isfinite(number) else None


def stamp(trajectory: Trajectory) -> None:
    """It ends now, where nobody said when it ended."""
    trajectory.ended_at = trajectory.ended_at or time.time()


def circumstances(trajectory: Trajectory) -> dict[str, Any]:
    """Where and when the episode was played, as plain fields."""
    steps = trajectory.step_seconds
    return {
        "ended_at": trajectory.ended_at,
        "host": trajectory.host,
        "resumes": [dataclasses.asdict(resume) for resume in trajectory.resumes],
        "step_seconds": None if steps is None else [round(seconds, 7) for seconds in steps],
    }


def packed_annotations(trajectory: Trajectory) -> dict[int, bytes]:
    """The annotations as serialized Values. Raises: InvalidRequest where one has no such form."""
    packed = {}
    for index, annotation in (trajectory.annotations or {}).items():
        try:
            packed[index] = encode(annotation)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"the annotation of step {index} cannot be recorded: {error}") from None
    return packed


def grade_form(grade: RewardResult) -> dict[str, Any]:
    """A grade as a JSON object."""
    return {
        "value": grade.value,
        "components": dict(grade.components),
        "valid": grade.valid,
        "rationale": grade.rationale,
    }


def failure_form(failure: Failure) -> dict[str, Any]:
    """A failure as a JSON object."""
    return {
        "cause": failure.cause,
        "message": failure.message,
        "retryable": failure.retryable,
        "reward_valid": failure.reward_valid,
    }


def _read_lines(path: Path) -> Iterator[Trajectory]:
    specs: dict[tuple[str, str, str], EnvironmentSpec] = {}
    begun = False
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                log.warning("%s: line %d is torn (its writer did not end well) and is skipped", path, number)
                return
            try:
                document = json.loads(line)
                kind = document["kind"]
                if not begun:
                    _check_format(kind, document)
                    begun = True
                elif kind == "environment":
                    del document["kind"]
                    spec = EnvironmentSpec(json_format.ParseDict(document, pb.EnvironmentInfo()))
                    specs[spec.name, spec.version, spec.build] = spec
                elif kind == "trajectory":
                    key = (document["environment"], document["version"], document["build"])
                    if key not in specs:
                        raise ValueError(f"{key[0]}@{key[1]} was not described before")
                    yield trajectory_of_form(document, specs[key])
                else:
                    raise ValueError(f"unknown kind {kind!r}")
            except (ValueError, KeyError, TypeError, AttributeError, json_format.Error) as error:
                what = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise InvalidRequest(f"{path}, line {number}: {what}", reason="MALFORMED") from None
    if not begun:
        raise InvalidRequest(f"{path} is empty: no recording", reason="MALFORMED")


def _check_format(kind: Any, document: dict[str, Any]) -> None:
    if kind != "recording":
        raise ValueError("the first line is not that of a recording")
    if document["format"] != FORMAT_VERSION:
        raise ValueError(f"a recording of format {document['format']}; this client reads {FORMAT_VERSION}")


def trajectory_of_form(form: dict[str, Any], spec: EnvironmentSpec) -> Trajectory:
    """The trajectory of a JSON object.

    Raises:
        ValueError, KeyError, TypeError: the object is none.
    """
    options = payload_from_json(form["options"]) if form["options"] is not None else b""
    observe, act = spec.observation_codec, spec.action_codec
    infos = {int(index): payload_from_json(info) for index, info in form["infos"].items()}
    annotations = {int(index): payload_from_json(data) for index, data in form["annotations"].items()}
    return made_trajectory(
        spec, form,
        episode_id=bytes.fromhex(form["episode_id"]),
        options=options,
        observations=[payload_from_json(item, observe) for item in form["observations"]],
        actions=[payload_from_json(item, act) for item in form["actions"]],
        digests=[int(digest, 16) for digest in form["digests"]],
        infos=infos,
        annotations=annotations,
    )  # fmt: skip


def made_trajectory(spec: EnvironmentSpec, form: dict[str, Any], *, episode_id: bytes, options: bytes,
                    observations: list[bytes], actions: list[bytes], digests: list[int], infos: dict[int, bytes],
                    annotations: dict[int, bytes]) -> Trajectory:  # fmt: skip
    """A trajectory out of its packed parts and the plain fields of ``form``.

    Raises:
        ValueError: the parts do not fit one another.
    """
    decode(options)  # or somebody would find out when looking at them
    trajectory = Trajectory(
        spec, episode_id, seed=form["seed"], options=None, packed_options=options, task=form["task"],
        split=form["split"], group=form["group"],
    )  # fmt: skip
    rewards = [float(reward) for reward in form["rewards"]]
    if len(digests) != len(observations) or len(observations) not in (0, len(rewards) + 1):
        raise ValueError(
            f"{len(observations)} observations, {len(digests)} digests and {len(rewards)} rewards do not "
            "make a trajectory"
        )
    trajectory.flags = int(form["flags"])
    several = AGENTS if spec.agents else 0
    flags = [several] * (len(digests) - 1) + [trajectory.flags | several]
    packed_infos = [infos.get(index, b"") for index in range(len(digests))]
    trajectory.fill(zip(observations, [0.0, *rewards], flags, digests, packed_infos, strict=False), actions)
    trajectory.seconds = float(form["seconds"])
    trajectory.ended_at = float(form.get("ended_at") or 0.0)
    trajectory.host = form.get("host") or ""
    trajectory.resumes = tuple(Resume(**resume) for resume in form.get("resumes") or ())
    trajectory.step_seconds = form.get("step_seconds")
    trajectory.annotations = {index: decode(data) for index, data in annotations.items()} or None
    if form["grade"] is not None:
        trajectory.grade = RewardResult(**form["grade"])
    if form["failure"] is not None:
        trajectory.failure = Failure(**form["failure"])
    return trajectory
