"""Playing a recorded episode again, and saying where it goes another way."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from envmesh.errors import EnvmeshError, EpisodeAborted, Failure
from envmesh.outcome import Outcome, Trajectory
from envmesh.v1 import value_pb2

if TYPE_CHECKING:
    from envmesh.mesh import Mesh

__all__ = ["Difference", "differences", "replay"]

SHOWN_CHARACTERS = 200
SHOWN_LINES = 12
DEPTH = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """Where a replay first left the recording. ``str`` of it is for people.

    ``step`` is 0 for the reset. ``fields`` names what differs: a path such as ``observation[0]``, what was recorded and
    what came now. ``failure`` is set where the replayed episode failed there instead. ``builds`` are the recorded and
    the present build of the environment.
    """

    step: int
    fields: tuple[tuple[str, Any, Any], ...]
    builds: tuple[str, str]
    failure: Failure | None = None

    def __str__(self) -> str:
        what = "the reset" if self.step == 0 else f"step {self.step}"
        lines = [f"{what} is the first to differ"]
        if self.builds[0] != self.builds[1]:
            lines.append(
                f"  the environment's code changed: build {self.builds[0]} then, {self.builds[1]} now"
            )
        if self.failure is not None:
            lines.append(f"  the episode failed: {self.failure.cause}: {self.failure.message}")
        for path, then, now in self.fields[:SHOWN_LINES]:
            lines += [f"  {line}" for line in _field_lines(path, then, now)]
        if len(self.fields) > SHOWN_LINES:
            lines.append(f"  … and {len(self.fields) - SHOWN_LINES} more")
        return "\n".join(lines)


async def replay(mesh: Mesh, trajectory: Trajectory) -> Difference | None:
    """Play a trajectory's actions again, with its seed, task and options, all as they were sent; the first difference,
    or None. A reset that failed then, and fails in the same words now, is no difference.

    The version must be the recorded one; another build of it is tried, and named where something differs.

    Raises:
        NotFound: the mesh does not serve this version of the environment. EnvmeshError: as ``mesh.episode``.
    """
    episode = mesh.episode(
        trajectory.spec.key,
        seed=trajectory.seed,
        task=trajectory.task,
        split=trajectory.split,
    )
    if trajectory.packed_options:
        episode.beginning.options_value = value_pb2.Value.FromString(trajectory.packed_options)
    try:
        recorded = trajectory.outcomes()
        try:
            outcome = await episode.begin()
        except EpisodeAborted as error:
            failed = _failed(trajectory, 0, error, trajectory.build)
            return None if not recorded and _alike(failed.failure, trajectory.failure) else failed
        builds = (trajectory.build, episode.spec.build)
        for step, expected in enumerate(recorded):
            if step:
                try:
                    outcome = await episode.step_packed(trajectory.packed_actions[step - 1])
                except EnvmeshError as error:
                    return _failed(trajectory, step, error, builds[1])
            if outcome.digest != expected.digest:
                return Difference(step, tuple(differences(expected, outcome)), builds)
        return None
    finally:
        await episode.close()


def differences(then: Outcome, now: Outcome) -> Iterator[tuple[str, Any, Any]]:
    """What differs between two outcomes, as (path, then, now); at least the digest where nothing else does."""
    found = False
    for name in ("observation", "reward", "terminated", "truncated"):
        for each in _between(name, getattr(then, name), getattr(now, name), 0):
            found = True
            yield each
    if not found:
        yield "digest", f"{then.digest:016x}", f"{now.digest:016x}"


def _between(path: str, then: Any, now: Any, depth: int) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(then, np.ndarray) and isinstance(now, np.ndarray):
        if then.dtype != now.dtype or then.shape != now.shape or then.tobytes() != now.tobytes():
            yield path, then, now
    elif isinstance(then, Mapping) and isinstance(now, Mapping) and depth < DEPTH:
        for key in sorted({*then, *now}, key=str):
            yield from _between(f"{path}[{key!r}]", then.get(key, _ABSENT), now.get(key, _ABSENT), depth + 1)
    elif isinstance(then, list | tuple) and isinstance(now, list | tuple) and depth < DEPTH:
        for index in range(max(len(then), len(now))):
            first = then[index] if index < len(then) else _ABSENT
            second = now[index] if index < len(now) else _ABSENT
            yield from _between(f"{path}[{index}]", first, second, depth + 1)
    elif type(then) is not type(now) or repr(then) != repr(now):
        yield path, then, now


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()


def _failed(trajectory: Trajectory, step: int, error: EnvmeshError, build: str) -> Difference:
    failure = (
        error.failure
        if isinstance(error, EpisodeAborted)
        else Failure.of(error.reason, Exception.__str__(error))
    )
    return Difference(step, (), (trajectory.build, build), failure)


def _alike(one: Failure | None, other: Failure | None) -> bool:
    """Whether two failures have the same cause and the same words."""
    return one is not None and other is not None and (one.cause, one.message) == (other.cause, other.message)


def _field_lines(path: str, then: Any, now: Any) -> Iterator[str]:
    if isinstance(then, np.ndarray) and isinstance(now, np.ndarray):
        yield f"{path}: {_array_difference(then, now)}"
    elif isinstance(then, str) and isinstance(now, str) and ("\n" in then or "\n" in now):
        yield f"{path}:"
        diff = difflib.unified_diff(then.splitlines(), now.splitlines(), "recorded", "now", lineterm="", n=1)
        lines = list(diff)
        yield from (f"  {_short(line)}" for line in lines[:SHOWN_LINES])
        if len(lines) > SHOWN_LINES:
            yield f"  … and {len(lines) - SHOWN_LINES} more lines"
    else:
        yield f"{path}: {_short(repr(then))} then, {_short(repr(now))} now"


def _array_difference(then: np.ndarray[Any, Any], now: np.ndarray[Any, Any]) -> str:
    if then.dtype != now.dtype or then.shape != now.shape:
        return f"{then.dtype}{list(then.shape)} then, {now.dtype}{list(now.shape)} now"
    unlike = (then != now) & ~((then != then) & (now != now))
    places = np.argwhere(unlike)
    if not len(places):
        return "the same numbers with other bits (zeros of another sign, say)"
    first = tuple(int(each) for each in places[0])
    where = list(first) if first else ""
    text = (
        f"{len(places)} of {then.size} elements; the first at {where}: {then[first]} then, {now[first]} now"
    )
    if then.dtype.kind == "f":
        apart = np.abs(then[unlike].astype(float) - now[unlike].astype(float))
        text += f"; furthest apart by {float(apart.max()):.3g}"
    return text


def _short(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]} ({len(text):,} characters)"
