"""Measurements of an environment's conduct: what it shows, what it pays, and how it takes what it should not get.

Measurements run in a child process and return plain values; what they mean is judged elsewhere.
"""

from __future__ import annotations

import copy
import functools
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from envmesh import values
from envmesh.env import Definition, Task
from envmesh.errors import Refusal
from envmesh_cli.check.actions import Chooser, bad_actions
from envmesh_cli.check.hosting import prepare, said_by
from envmesh_cli.check.stage import ActionRefused, EnvironmentBroke, Seen, Stage, by_author, of_agent
from envmesh_host.player import reward_row
from envmesh_host.shown import shown

__all__ = ["Bench", "measure_bad_actions", "measure_extras", "measure_play", "play_episode"]

Record = dict[str, Any]


class Bench:
    """What is measured, and within which bounds."""

    def __init__(
        self, definition: Definition, *, seed: int, steps: int, pool: list[Any], soft_seconds: float
    ) -> None:
        self.definition = definition
        self.seed = seed
        self.steps = steps
        self.pool = pool
        self._began, self._seconds = time.monotonic(), soft_seconds

    def with_steps(self, most: int) -> Bench:
        """The same for shorter episodes, within the same time."""
        shorter = copy.copy(self)
        shorter.steps = min(self.steps, most)
        return shorter

    def spent(self, share: float = 1.0) -> bool:
        """Whether (a share of) the time for this measurement is used up. At least one episode is always begun and
        acted in once; beyond that each command is a chance to stop, so that what is slow is not taken for what hangs.
        """
        return time.monotonic() > self._began + self._seconds * share


def play_episode(
    stage: Stage, bench: Bench, seed: int, look: Callable[[Seen], None], begun: Seen | None = None
) -> tuple[int, bool, str]:
    """Play one episode with chosen actions: its steps, whether it ended, and where the actions came from."""
    seen = stage.reset(seed) if begun is None else begun
    look(seen)
    chooser = Chooser(stage, seed, bench.pool)
    for step in range(1, bench.steps + 1):
        seen = stage.step(chooser.choose(seen))
        look(seen)
        if seen.done:
            return step, True, chooser.origin
        if bench.spent():
            return step, False, chooser.origin
    return bench.steps, False, chooser.origin


def measure_play(bench: Bench, episodes: int) -> Record:
    """Play episodes on one instance, reset again and again, and look at everything that is seen."""
    prepare(bench.definition)
    stage = Stage(bench.definition)
    problems: dict[str, int] = {}
    counted = {"observations": 0, "steps": 0, "ended": 0, "cut_off": 0, "episodes": 0}
    rewards: list[float] = []
    bad_rewards: list[str] = []
    bad_infos: dict[str, int] = {}
    odd_agents: dict[str, int] = {}
    largest = 0
    origin = ""

    def look(seen: Seen) -> None:
        nonlocal largest
        counted["observations"] += 1
        largest = max(largest, len(seen.payload))
        problem = stage.observation_problem(seen)
        if problem is not None:
            problems[problem] = problems.get(problem, 0) + 1
        for agent, reward in seen.rewards.items():
            if not math.isfinite(reward):
                bad_rewards.append(
                    f"{reward} at observation {counted['observations']}" + (f" ({agent})" if agent else "")
                )
            rewards.append(reward)
        problem = _info_problem(stage, seen)
        if problem is not None:
            bad_infos[problem] = bad_infos.get(problem, 0) + 1
        problem = _agents_problem(stage, seen)
        if problem is not None:
            odd_agents[problem] = odd_agents.get(problem, 0) + 1

    for episode in range(episodes):
        played, ended, origin = play_episode(stage, bench, bench.seed + episode, look)
        counted["episodes"] += 1
        counted["steps"] += played
        counted["ended"] += ended
        counted["cut_off"] += not ended and played < bench.steps
        if bench.spent():
            break
    stage.close()
    finite = [reward for reward in rewards if math.isfinite(reward)]
    return {
        **counted,
        "origin": origin,
        "seeded": stage.seeded,
        "observation_space": stage.observation_space is not None,
        "action_space": stage.action_space is not None,
        "asynchronous": stage.asynchronous,
        "observation_problems": _most(problems),
        "largest_observation": largest,
        "reward_range": [min(finite, default=0.0), max(finite, default=0.0)],
        "bad_rewards": bad_rewards[:3],
        "bad_reward_count": len(bad_rewards),
        "bad_infos": _most(bad_infos),
        "odd_agents": _most(odd_agents),
        "reset_again": None if bench.spent() else _reset_again(bench),
    }


def _reset_again(bench: Bench) -> Record:
    """The same seed on a used instance and on a fresh one: does anything of the first episode remain?"""

    def digests(stage: Stage) -> list[int]:
        seen: list[int] = []
        play_episode(stage, bench, bench.seed, lambda shown: seen.append(shown.digest))
        return seen

    used = Stage(bench.definition, bench.seed)
    digests(used)
    again = digests(used)
    fresh_stage = Stage(bench.definition, bench.seed)
    fresh = digests(fresh_stage)
    other_stage = Stage(bench.definition, bench.seed)
    other = digests(other_stage)
    for stage in (used, fresh_stage, other_stage):
        stage.close()
    shared = min(len(fresh), len(other), len(again))
    return {"same": again[:shared] == fresh[:shared], "repeatable": fresh[:shared] == other[:shared]}


def measure_bad_actions(bench: Bench) -> Record:
    """Offer values that are hardly ever actions, each to an instance of its own, in the middle of an episode."""
    stage = Stage(bench.definition)
    seen = stage.reset(bench.seed)
    space = stage.action_space
    if seen.acting:
        space = of_agent(space, seen.acting[0])
    refused = accepted = changed = 0
    raised: list[str] = []
    exits: list[str] = []
    reference = _after_first_step(bench, None) if space is None else None
    for value in bad_actions(space):
        offered = dict.fromkeys(seen.acting, value) if seen.acting else value
        try:
            stage.receive(offered)
        except ActionRefused:
            refused += 1
            continue
        if space is not None:
            continue  # the space says that it is an action
        other = Stage(bench.definition)
        other.reset(bench.seed)
        try:
            other.step(offered)
            accepted += 1
        except EnvironmentBroke as error:
            (exits if error.kind == "called" else raised).append(f"{_short(value)}: {error.message}")
            changed += reference is not None and _differ(_after_first_step(bench, offered), reference)
        other.close()
        if bench.spent():
            break
    stage.close()
    return {
        "declared": space is not None,
        "refused": refused,
        "accepted": accepted,
        "raised": raised[:3],
        "raised_count": len(raised),
        "changed": changed,
        "exits": exits[:3],
    }


def _after_first_step(bench: Bench, offered: Any) -> list[int] | None:
    """The digests of a short episode, with a bad action offered before its first step; None if it breaks."""
    stage = Stage(bench.definition, bench.seed)
    seen = stage.reset(bench.seed)
    digests = [seen.digest]
    chooser = Chooser(stage, bench.seed, bench.pool)
    try:
        if offered is not None:
            try:
                stage.step(offered)
            except EnvironmentBroke:
                pass
        for _ in range(min(8, bench.steps)):
            seen = stage.step(chooser.choose(seen))
            digests.append(seen.digest)
            if seen.done or bench.spent():
                break
    except EnvironmentBroke:
        return None
    finally:
        stage.close()
    return digests


def _differ(one: list[int] | None, other: list[int]) -> bool:
    """Whether two episodes went different ways, as far as both were played; None is one that broke."""
    return one is None or any(a != b for a, b in zip(one, other, strict=False))


def measure_extras(bench: Bench) -> Record:
    """What the optional methods do: grades that are finite and change nothing, tasks that can be begun."""
    record: Record = {"reward": None, "tasks": None, "generators": _generators_used(bench)}
    stage = Stage(bench.definition, bench.seed)
    if stage.has("reward"):
        record["reward"] = _grade(stage, bench)
    stage.close()
    if bench.definition.tasks is not None:
        try:
            record["tasks"] = _tasks(bench)
        except EnvironmentBroke as broke:
            record["tasks"] = {"broken": str(broke)}
    return record


def _grade(stage: Stage, bench: Bench) -> Record:
    problems: list[str] = []
    digests: list[int] = []
    graded = 0

    def look(seen: Seen) -> None:
        nonlocal graded
        digests.append(seen.digest)
        grade = stage.call("reward")
        graded += 1
        try:
            reward_row(grade, graded)
        except Refusal as refused:
            problems.append(said_by(refused))

    play_episode(stage, bench, bench.seed, look)
    plain: list[int] = []
    if not bench.spent():
        other = Stage(bench.definition, bench.seed)
        play_episode(other, bench, bench.seed, lambda seen: plain.append(seen.digest))
        other.close()
    return {
        "graded": graded,
        "problems": problems[:3],
        "compared": bool(plain),
        "changes_nothing": not _differ(plain, digests),
    }


def _tasks(bench: Bench) -> Record:
    listed = bench.definition.tasks
    assert listed is not None
    tasks = by_author("tasks()", lambda: iter(listed()))
    ended = object()
    identities: set[tuple[str, str]] = set()
    first, count, repeated = None, 0, 0
    while (task := by_author("tasks()", lambda: next(tasks, ended))) is not ended:
        if not (isinstance(task, Task) and isinstance(task.id, str) and isinstance(task.split, str)):
            wanted = "an envmesh.Task whose id and split are text"
            raise EnvironmentBroke("tasks()", "listed", f"{shown(task)}, which is not {wanted}")
        first = first or task
        count += 1
        repeated += (task.id, task.split) in identities
        identities.add((task.id, task.split))
        if count % 1024 == 0 and bench.spent():
            break
    begins = first is not None and not bench.spent()
    if begins:
        stage = Stage(bench.definition, bench.seed)
        stage.reset(bench.seed, {"task": first})
        stage.close()
    return {"count": count, "repeated": repeated, "begun": begins}


def _generators_used(bench: Bench) -> list[str]:
    """Which global generators an episode draws from or seeds, by when, as in ``reset() of random``."""
    found: list[str] = []
    # nobody else seeds them here
    definition = replace(
        bench.definition, declaration=replace(bench.definition.declaration, global_random=False)
    )
    random.seed()  # seeding with a seed that was used before must be seen as well
    np.random.seed(random.randrange(2**32))

    def watch(during: str, call: Callable[[], Any]) -> Any:
        before = random.getstate(), np.random.get_state()
        result = call()
        if random.getstate() != before[0]:
            found.append(f"{during} of random")
        after = np.random.get_state()
        if not all(np.array_equal(a, b) for a, b in zip(before[1], after, strict=True)):
            found.append(f"{during} of numpy.random")
        return result

    stage = watch("making it", lambda: Stage(definition))
    seen = watch("reset()", lambda: stage.reset(bench.seed))
    chooser = Chooser(stage, bench.seed, bench.pool)
    for _ in range(min(50, bench.steps)):
        action = chooser.choose(seen)
        seen = watch("step()", functools.partial(stage.step, action))
        if seen.done or bench.spent():
            break
    stage.close()
    return sorted(set(found))


def _info_problem(stage: Stage, seen: Seen) -> str | None:
    if not seen.info:
        return None
    try:
        values.encode(dict(seen.info))
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _agents_problem(stage: Stage, seen: Seen) -> str | None:
    if not stage.agents:
        return None
    for agent in seen.acting:
        if agent not in stage.agents:
            return f"{agent!r} is due and is none of the declared agents"
        if agent not in seen.observation:
            return f"{agent!r} is due and gets no observation"
    return None


def _most(problems: dict[str, int]) -> list[list[Any]]:
    """The most frequent problems, each with its count."""
    return [
        [problem[:300], count] for problem, count in sorted(problems.items(), key=lambda item: -item[1])[:3]
    ]


def _short(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 40 else text[:40] + "…"
