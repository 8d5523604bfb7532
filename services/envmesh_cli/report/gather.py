"""What a recording says of its run, taken in one trajectory at a time."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envmesh.outcome import Resume, Trajectory

__all__ = ["Environment", "Moment", "Run", "Stay", "gather"]

SHOWN_EPISODES = 12
KEPT_STEP_TIMES = 2_000_000

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stay:
    """An episode on a host, in Unix seconds."""

    host: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Moment:
    """About when an episode was rebuilt: steps are taken to be equally far apart."""

    at: float
    resume: Resume
    episode: bytes


@dataclass(slots=True)
class Environment:
    """One environment's episodes, in the order in which they ended. A failed one has no return."""

    key: str
    returns: list[float] = field(default_factory=list)
    grades: list[float] = field(default_factory=list)
    invalid_grades: int = 0


@dataclass(slots=True)
class Run:
    """A run. Times are in seconds; ``begin`` and ``end`` on the Unix clock, 0.0 where the recording has no times."""

    environments: dict[str, Environment] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    resumes: list[Moment] = field(default_factory=list)
    step_seconds: Numbers = field(default_factory=lambda: np.empty(0))
    step_times_left_out: int = 0
    slowest: list[Trajectory] = field(default_factory=list)
    failed: list[Trajectory] = field(default_factory=list)
    begin: float = 0.0
    end: float = 0.0

    @property
    def episodes(self) -> int:
        """How many."""
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """Of all episodes."""
        return sum(self.lengths)

    @property
    def took(self) -> float:
        """From the first reset to the last end; 0.0 where nobody knows."""
        return self.end - self.begin


def gather(trajectories: Iterable[Trajectory]) -> Run:
    """Take in a whole recording. Keeps numbers of all episodes, and the steps of a few."""
    run = Run()
    slowest: list[tuple[float, int, Trajectory]] = []
    times: list[Numbers] = []
    kept = 0
    for number, trajectory in enumerate(trajectories):
        _count(run, trajectory)
        entry = (trajectory.seconds, number, trajectory)
        if len(slowest) < SHOWN_EPISODES:
            heapq.heappush(slowest, entry)
        else:
            heapq.heappushpop(slowest, entry)
        steps = trajectory.step_seconds
        if steps is not None and len(steps):
            if kept + len(steps) <= KEPT_STEP_TIMES:
                times.append(np.asarray(steps, dtype=np.float64))
                kept += len(steps)
            else:
                run.step_times_left_out += len(steps)
    run.slowest = [trajectory for _, _, trajectory in sorted(slowest, reverse=True)]
    run.step_seconds = np.concatenate(times) if times else np.empty(0)
    return run


def _count(run: Run, trajectory: Trajectory) -> None:
    environment = run.environments.setdefault(trajectory.spec.key, Environment(trajectory.spec.key))
    run.outcomes[trajectory.outcome] += 1
    run.lengths.append(len(trajectory))
    run.seconds.append(trajectory.seconds)
    if (failure := trajectory.failure) is not None:
        run.failures[failure.cause] += 1
        run.messages.setdefault(failure.cause, failure.message)
        if len(run.failed) < SHOWN_EPISODES:
            run.failed.append(trajectory)
    if (total := trajectory.return_) is not None:
        environment.returns.append(total)
    if (grade := trajectory.grade) is not None:
        if grade.valid:
            environment.grades.append(grade.value)
        else:
            environment.invalid_grades += 1
    if trajectory.ended_at:
        begin = trajectory.ended_at - trajectory.seconds
        run.begin = min(run.begin or begin, begin)
        run.end = max(run.end, trajectory.ended_at)
        _place(run, trajectory, begin)


def _place(run: Run, trajectory: Trajectory, begin: float) -> None:
    """Where the episode was, and when it went elsewhere."""
    share = trajectory.seconds / (len(trajectory) + 1)
    since = begin
    for resume in trajectory.resumes:
        at = max(since, begin + share * (resume.index + 1))
        run.stays.append(Stay(resume.from_host, since, at))
        run.resumes.append(Moment(at, resume, trajectory.episode_id))
        since = at
    run.stays.append(Stay(trajectory.host, since, trajectory.ended_at))


def occupancy(stays: Iterable[Stay], begin: float, end: float, points: int) -> dict[str, Numbers]:
    """By host, how many episodes it had at each of ``points`` moments (their mean within each)."""
    width = (end - begin) / points or 1.0
    found: dict[str, Numbers] = defaultdict(lambda: np.zeros(points))
    for stay in stays:
        first, last = (stay.begin - begin) / width, (stay.end - begin) / width
        low, high = (min(points - 1, max(0, int(each))) for each in (first, last))
        row = found[stay.host]
        if low == high:
            row[low] += last - first
            continue
        row[low] += low + 1 - first
        row[low + 1 : high] += 1
        row[high] += last - high
    return dict(sorted(found.items()))
