"""Recordings as Parquet: one row a trajectory, values as canonical bytes (``envmesh.values.decode`` reads them)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envmesh.claimed_file import claim
from envmesh.errors import InvalidRequest, MissingExtra
from envmesh.outcome import EnvironmentSpec, Trajectory
from envmesh.recording import (
    FORMAT_VERSION,
    Recorder,
    circumstances,
    failure_form,
    grade_form,
    made_trajectory,
    packed_annotations,
    stamp,
)
from envmesh.v1 import environment_pb2 as pb

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise MissingExtra("recordings as Parquet need pyarrow: pip install 'envmesh[parquet]'") from None

__all__ = ["ParquetRecorder", "read_rows"]

ROW_GROUP_ROWS = 1024
ROW_GROUP_BYTES = 8 << 20
READ_ROWS = 64
_FORMAT = b"envmesh_recording"

_packed = pa.map_(pa.int64(), pa.binary())
_SCHEMA = pa.schema(
    [
        ("environment", pa.string()),
        ("version", pa.string()),
        ("build", pa.string()),
        ("episode_id", pa.binary()),
        ("seed", pa.uint64()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("group", pa.int64()),
        ("options", pa.binary()),
        ("outcome", pa.string()),
        ("return", pa.float64()),
        ("flags", pa.int64()),
        ("seconds", pa.float64()),
        ("ended_at", pa.float64()),
        ("host", pa.string()),
        (
            "resumes",
            pa.list_(
                pa.struct(
                    [
                        ("index", pa.int64()),
                        ("cause", pa.string()),
                        ("seconds", pa.float64()),
                        ("replayed", pa.int64()),
                        ("from_host", pa.string()),
                        ("to_host", pa.string()),
                    ]
                )
            ),
        ),
        ("step_seconds", pa.list_(pa.float32())),
        ("observations", pa.list_(pa.binary())),
        ("actions", pa.list_(pa.binary())),
        ("rewards", pa.list_(pa.float64())),
        ("digests", pa.list_(pa.uint64())),
        ("infos", _packed),
        ("annotations", _packed),
        (
            "grade",
            pa.struct(
                [
                    ("value", pa.float64()),
                    ("components", pa.map_(pa.string(), pa.float64())),
                    ("valid", pa.bool_()),
                    ("rationale", pa.string()),
                ]
            ),
        ),
        (
            "failure",
            pa.struct(
                [
                    ("cause", pa.string()),
                    ("message", pa.string()),
                    ("retryable", pa.bool_()),
                    ("reward_valid", pa.bool_()),
                ]
            ),
        ),
        ("spec", pa.binary()),
    ],
    metadata={_FORMAT: str(FORMAT_VERSION).encode()},
)


class ParquetRecorder(Recorder):
    """Writes a row group whenever enough has come together. The file is written beside its place, as ``….partial``, and
    moved there when it is closed, so that what has the final name is whole. What a crash left there is not lost to the
    next recording of that name: it is kept as ``….partial.1`` and so on."""

    def __init__(self, path: Path):
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._claim = claim(self._partial)
        self._writer = pq.ParquetWriter(
            str(self._partial),
            _SCHEMA,
            compression="zstd",
            use_dictionary=["environment", "version", "build", "spec"],
        )
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._closed = False

    def write(self, trajectory: Trajectory) -> None:
        """Add a trajectory."""
        stamp(trajectory)
        row = _row(trajectory)
        self._rows.append(row)
        held = row["observations"], row["actions"], row["infos"].values(), row["annotations"].values()
        self._bytes += sum(sum(map(len, column)) for column in held)
        if len(self._rows) >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left and give the file its name."""
        if self._closed:
            return
        self._closed = True
        with self._claim:
            try:
                self._flush()
            finally:
                self._writer.close()
            self._partial.replace(self._path)

    def _flush(self) -> None:
        rows, self._rows, self._bytes = self._rows, [], 0
        if not rows:
            return
        try:
            self._writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(self._partial)) from error


def read_rows(path: Path) -> Iterator[Trajectory]:
    """The trajectories of a Parquet recording. Raises: as ``envmesh.recording.read``."""
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InvalidRequest(
            f"{path} is no Parquet file, or was not closed: {error}", reason="MALFORMED"
        ) from None
    with file:
        version = (file.schema_arrow.metadata or {}).get(_FORMAT)
        if version is None:
            raise InvalidRequest(f"{path} is Parquet, but no recording of envmesh", reason="MALFORMED")
        if version != str(FORMAT_VERSION).encode():
            raise InvalidRequest(
                f"{path} is a recording of format {version.decode()}; this client reads {FORMAT_VERSION}",
                reason="VERSION_MISMATCH",
            )
        specs: dict[bytes, EnvironmentSpec] = {}
        number = 0
        for batch in file.iter_batches(batch_size=READ_ROWS):
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                number += 1
                try:
                    spec = specs.get(row["spec"])
                    if spec is None:
                        spec = specs[row["spec"]] = EnvironmentSpec(
                            pb.EnvironmentInfo.FromString(row["spec"])
                        )
                    yield _trajectory(row, spec)
                except (ValueError, KeyError, TypeError) as error:
                    raise InvalidRequest(f"{path}, row {number}: {error}", reason="MALFORMED") from None


def _row(trajectory: Trajectory) -> dict[str, Any]:
    grade, failure = trajectory.grade, trajectory.failure
    return {
        "environment": trajectory.environment,
        "version": trajectory.version,
        "build": trajectory.build,
        "episode_id": trajectory.episode_id,
        "seed": trajectory.seed,
        "task": trajectory.task,
        "split": trajectory.split,
        "group": trajectory.group,
        "options": trajectory.packed_options or None,
        "outcome": trajectory.outcome,
        "return": trajectory.return_,
        "flags": trajectory.flags,
        "seconds": trajectory.seconds,
        **circumstances(trajectory),
        "observations": trajectory.packed_observations,
        "actions": trajectory.packed_actions,
        "rewards": trajectory.rewards,
        "digests": trajectory.digests,
        "infos": trajectory.packed_infos,
        "annotations": packed_annotations(trajectory),
        "grade": None if grade is None else grade_form(grade),
        "failure": None if failure is None else failure_form(failure),
        "spec": trajectory.spec.message.SerializeToString(deterministic=True),
    }


def _trajectory(row: dict[str, Any], spec: EnvironmentSpec) -> Trajectory:
    return made_trajectory(
        spec,
        row,
        episode_id=row["episode_id"],
        options=row["options"] or b"",
        observations=row["observations"],
        actions=row["actions"],
        digests=row["digests"],
        infos=row["infos"],
        annotations=row["annotations"],
    )
