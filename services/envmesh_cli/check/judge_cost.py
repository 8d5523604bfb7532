"""What the measurements of cost mean (pure): whether its pace fits its isolation, and what it leaves behind."""

from __future__ import annotations

import itertools
from typing import Any

from envmesh.env import Declaration, Isolation
from envmesh_cli.check.report import Finding, Verdict
from envmesh_cli.check.words import in_bytes, in_time, plural

__all__ = ["fits_inline", "judge_leaks", "judge_pace"]

PASS, WARN, FAIL, SKIP = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.SKIP
Record = dict[str, Any]

_INLINE_STEP_SECONDS = 1e-3
"""An inline environment slower than this, 1 time in 100, holds up everybody else on its host."""
_INLINE_RARE_SECONDS = 20e-3
"""The same of what is done once an episode, 1 time in 10: a reset, a grade."""
_FEWEST_EPISODES = 8
_TRACED_PER_EPISODE = 256
_TRACED_IN_ALL = 48 * 1024
_RESIDENT_PER_EPISODE = 16 * 1024
_RESIDENT_IN_ALL = 8 * 1024 * 1024
_HANDLES_PER_EPISODE = 0.1


def judge_pace(pace: Record, declaration: Declaration, *, asynchronous: bool) -> Finding:
    """Whether the time that commands take, and how they spend it, fits where they run."""
    name = "pace"
    step, reset = pace["step"], pace["reset"]
    shown = (
        f"a step takes {in_time(step['p50'])} (p99 {in_time(step['p99'])}), a reset {in_time(reset['p50'])}"
    )
    if (
        step["max"] > declaration.limits.step_seconds / 2
        or reset["max"] > declaration.limits.reset_seconds / 2
    ):
        return Finding(
            name,
            WARN,
            f"{_capital(shown)}; the longest come close to its limits of {in_time(declaration.limits.step_seconds)} "
            f"and {in_time(declaration.limits.reset_seconds)}.",
            "Raise limits, or a busy host will abort good episodes.",
        )
    if declaration.isolation is Isolation.INLINE:
        return _inline(shown, pace)
    if declaration.isolation is Isolation.THREAD and not asynchronous:
        computing = pace["processor"]["p50"]
        if computing > _INLINE_STEP_SECONDS:
            return Finding(
                name,
                WARN,
                f"{_capital(shown)}, {in_time(computing)} of it computing: threads of one process take turns at that.",
                "Declare isolation='process', and steps use all processors.",
            )
    return Finding(name, PASS, f"{_capital(shown)}.")


def fits_inline(pace: Record) -> bool:
    """Whether it could run in the event loop, with room to spare: what is measured once is not the worst there is."""
    rare = max(pace["reset"]["p90"], pace["grade"]["p90"])
    return bool(pace["blocked"]["p99"] < _INLINE_STEP_SECONDS / 4 and rare < _INLINE_RARE_SECONDS / 2)


def _inline(shown: str, pace: Record) -> Finding:
    blocked = pace["blocked"]["p99"]
    if blocked > _INLINE_STEP_SECONDS:
        return Finding(
            "pace",
            FAIL,
            f"{_capital(shown)}; it blocks for {in_time(blocked)} at p99, and inline may for 1 ms: "
            "all episodes of the host wait meanwhile.",
            "Declare isolation='process' (it computes) or 'thread' (it waits), or await what it waits for.",
        )
    for what, where in (
        ("reset", "at import, what every reset does again"),
        ("grade", "in step(), what it adds up"),
    ):
        if pace[what]["p90"] > _INLINE_RARE_SECONDS:
            return Finding(
                "pace",
                WARN,
                f"{_capital(shown)}; a {what} holds up all episodes of the host for "
                f"{in_time(pace[what]['p90'])} at p90.",
                f"Declare isolation='process', or do once, {where}.",
            )
    return Finding("pace", PASS, f"{_capital(shown)}: quick enough for inline.")


def judge_leaks(leaks: Record) -> Finding:
    """Whether something grows with every episode."""
    name = "leaks"
    looks, episodes = leaks["looks"], leaks["episodes"]
    if episodes < _FEWEST_EPISODES or len(looks) < 4:
        return Finding(name, SKIP, f"There was time for {plural(episodes, 'episode')} only, too few to tell.")
    settled = looks[len(looks) // 4 :]
    span = settled[-1]["episode"] - settled[0]["episode"]
    for key, what, advice in (
        ("files", "file descriptors", "Close files and sockets in close()."),
        ("threads", "threads", "End and join threads in close()."),
        ("children", "child processes", "End and wait for child processes in close()."),
    ):
        grown = settled[-1][key] - settled[0][key]
        if grown >= 2 and grown / span >= _HANDLES_PER_EPISODE and _steady(settled, key):
            return Finding(
                name, FAIL, f"{grown} more {what} after {plural(span, 'episode')} that were closed.", advice
            )
    grown = settled[-1]["traced"] - settled[0]["traced"]
    if grown > _TRACED_IN_ALL and grown / span > _TRACED_PER_EPISODE and _steady(settled, "traced"):
        return Finding(
            name,
            FAIL,
            f"{in_bytes(grown / span)} an episode stay in memory ({in_bytes(grown)} after {plural(span, 'episode')}).",
            "Look for lists and caches of the module or the class that only grow, and for references to old instances.",
        )
    grown = settled[-1]["resident"] - settled[0]["resident"]
    if grown > _RESIDENT_IN_ALL and grown / span > _RESIDENT_PER_EPISODE and _steady(settled, "resident"):
        return Finding(
            name,
            WARN,
            f"The process grows by {in_bytes(grown / span)} an episode, outside of Python's own memory.",
            "Free in close() what native libraries hold.",
        )
    return Finding(name, PASS, f"Nothing grows over {plural(episodes, 'episode')} that were closed.")


def _steady(looks: list[Record], key: str) -> bool:
    """It grew in most intervals, and as much in the second half as in the first: no cache that fills up."""
    steps = [later[key] - earlier[key] for earlier, later in itertools.pairwise(looks)]
    if sum(step > 0 for step in steps) < 0.6 * len(steps):
        return False
    middle = len(steps) // 2
    return bool(sum(steps[middle:]) > 0.5 * sum(steps[:middle]))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
