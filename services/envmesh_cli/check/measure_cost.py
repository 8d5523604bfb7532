"""Measurements of what an environment costs: time for each command, and what it leaves behind."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

from envmesh_cli.check.actions import Chooser
from envmesh_cli.check.measure_play import Bench, Record, play_episode
from envmesh_cli.check.stage import Stage

__all__ = ["measure_leaks", "measure_pace", "percentile"]

Timed = tuple[float, float, float]
"""Of one step: seconds, processor seconds, and seconds for which an event loop could do nothing else."""

_FEWEST_RUNS, _MOST_RUNS = 3, 9
_NOTABLE_SECONDS = 0.5e-3
_LOOKS = 16
"""How often the leak measurement looks at what is held."""


def measure_leaks(bench: Bench, episodes: int) -> Record:
    """Play many short episodes, each on an instance of its own that is closed, and look at what stays."""
    looks: list[Record] = []
    every = max(1, episodes // _LOOKS)
    short = bench.with_steps(50)

    def look(episode: int) -> None:
        gc.collect()
        looks.append(
            {
                "episode": episode,
                "traced": tracemalloc.get_traced_memory()[0],
                "resident": _resident(),
                "files": _open_files(),
                "threads": threading.active_count(),
                "children": _children(),
            }
        )

    done = 0
    tracemalloc.start()
    try:
        for episode in range(episodes):
            stage = Stage(bench.definition)
            play_episode(stage, short, bench.seed + episode % 8, lambda seen: None)
            stage.close()
            del stage
            done = episode + 1
            if done % every == 0:
                look(done)
            if bench.spent():
                break
        if not looks or looks[-1]["episode"] != done:
            look(done)
    finally:
        tracemalloc.stop()
    return {"episodes": done, "looks": looks}


def measure_pace(bench: Bench, episodes: int) -> Record:
    """Time episodes, each of them several times with the same seed; the least for a step is the environment's own.

    Another process may take the processor away from any run, and hardly from the same step of all: as long as a
    step seems to block, the episode is timed again.
    """
    steps: list[Timed] = []
    resets: list[float] = []
    made: list[float] = []
    grades: list[float] = []
    for episode in range(episodes):
        runs: list[list[Timed]] = []
        while not runs or not (_enough(runs) or bench.spent()):
            runs.append(_time_episode(bench, bench.seed + episode, made, resets, grades))
        steps += _least(runs)
        if bench.spent():
            break
    seconds, processor, blocked = ([step[column] for step in steps] for column in range(3))
    return {
        "steps": len(steps),
        "step": _spread(seconds),
        "processor": _spread(processor),
        "blocked": _spread(blocked),
        "reset": _spread(resets),
        "grade": _spread(grades),
        "making": _spread(made),
    }


def _time_episode(
    bench: Bench, seed: int, made: list[float], resets: list[float], grades: list[float]
) -> list[Timed]:
    stage = Stage(bench.definition, seed)
    made.append(stage.made_seconds)
    seen = stage.reset(seed)
    resets.append(seen.blocked_seconds)
    chooser = Chooser(stage, bench.seed, bench.pool)
    times: list[Timed] = []
    while len(times) < bench.steps and not seen.done and not (times and bench.spent()):
        seen = stage.step(chooser.choose(seen))
        times.append((seen.seconds, seen.processor_seconds, seen.blocked_seconds))
    if stage.has("reward"):
        grades.append(stage.timed_call("reward")[1])
    stage.close()
    return times


def _least(runs: list[list[Timed]]) -> list[Timed]:
    """For each step the least of all runs; where no two runs are of the same length there is nothing to compare."""
    if len({len(times) for times in runs}) > 1:
        return [times for run in runs for times in run]
    return [
        (min(times[0] for times in step), min(times[1] for times in step), min(times[2] for times in step))
        for step in zip(*runs, strict=True)
    ]


def _enough(runs: list[list[Timed]]) -> bool:
    return len(runs) >= _MOST_RUNS or (len(runs) >= _FEWEST_RUNS and not _blocks(runs))


def _blocks(runs: list[list[Timed]]) -> bool:
    return max((times[2] for times in _least(runs)), default=0.0) > _NOTABLE_SECONDS


def percentile(numbers: list[float], share: float) -> float:
    """The value that ``share`` of the numbers do not exceed; 0 of none."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _spread(numbers: list[float]) -> dict[str, float]:
    return {
        "p50": percentile(numbers, 0.5),
        "p90": percentile(numbers, 0.9),
        "p99": percentile(numbers, 0.99),
        "max": max(numbers, default=0.0),
    }


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _open_files() -> int:
    for directory in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(directory))  # noqa: PTH208 - a count, not paths
    return 0


def _children() -> int:
    found: list[Any] = []
    with contextlib.suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            found += (task / "children").read_text().split()
    return len(found)
