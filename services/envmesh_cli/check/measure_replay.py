"""Measurements of what can be rebuilt: the same episode alone, beside others, in another process, from a checkpoint."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from envmesh import values
from envmesh.env import Isolation
from envmesh.errors import Refusal
from envmesh_cli.check.actions import Chooser
from envmesh_cli.check.measure_play import Bench, Record
from envmesh_cli.check.stage import GENERATORS, EnvironmentBroke, Stage, at_once, keeps_generators
from envmesh_host.player import reward_row

__all__ = [
    "measure_checkpoints",
    "measure_neighbours",
    "measure_replays",
    "measure_restores",
    "measure_traces",
]


def measure_traces(bench: Bench, seeds: list[int]) -> Record:
    """Play an episode a seed, each on an instance of its own; with actions and digests, as a journal has them. They
    share the time, so that there are several of a slow environment too, if only their beginnings."""
    traces: list[Record] = []
    for number, seed in enumerate(seeds, 1):
        stage = Stage(bench.definition, seed)
        seen = stage.reset(seed)
        chooser = Chooser(stage, bench.seed, bench.pool)  # the same choices whatever the seed
        actions: list[str] = []
        digests = [f"{seen.digest:016x}"]
        while (
            len(actions) < bench.steps
            and not seen.done
            and not (actions and bench.spent(number / len(seeds)))
        ):
            action = chooser.choose(seen)
            actions.append(_packed(action))
            seen = stage.step(action)
            digests.append(f"{seen.digest:016x}")
        stage.close()
        traces.append({"seed": seed, "actions": actions, "digests": digests})
        if bench.spent():
            break
    return {"traces": traces}


def measure_replays(bench: Bench, traces: list[Record]) -> Record:
    """Play recorded episodes again, as many as there is time for; the first outcome that differs, for each, or None."""
    replays: list[_Replaying] = []
    for trace in traces:
        replays.append(_Replaying(bench, trace))
        replays[-1].run()
        if bench.spent():
            break
    steps = sum(replay.steps for replay in replays)
    return {"differs": [replay.differs for replay in replays], "steps": steps}


def measure_neighbours(bench: Bench, traces: list[Record]) -> Record:
    """Play recorded episodes side by side, a command of each in turn, as a process that many share would. Commands that
    overlap on a host do so here: asynchronous ones, and those of isolation ``thread``. One episode is closed when it
    is half done, while the others go on."""
    half = len(traces[0]["actions"]) // 2
    shorter = {
        **traces[0],
        "actions": traces[0]["actions"][:half],
        "digests": traces[0]["digests"][: half + 1],
    }
    replays = [_Replaying(bench, trace, beside=True) for trace in (shorter, *traces[1:])]
    stage = replays[0].stage
    threaded = bench.definition.declaration.isolation is Isolation.THREAD
    overlapping = not stage.swaps and (stage.asynchronous or threaded)
    with ThreadPoolExecutor(len(replays)) as threads:
        while not all(replay.finished for replay in replays):
            if overlapping:
                at_once([replay.advance for replay in replays], threads)
            else:
                for replay in replays:
                    replay.advance()
            if bench.spent():
                break
    for replay in replays:
        replay.finish()
    return {
        "differs": [replay.differs for replay in replays],
        "swapped": stage.swaps,
        "overlapping": overlapping,
    }


def measure_checkpoints(bench: Bench, trace: Record, repeatable: bool) -> Record:
    """Take a checkpoint at the start of a recorded episode and in the middle, and go on. Where the episode does not
    repeat itself there is nothing to compare with: then it is only played as far."""
    found: list[Record] = []
    for at in sorted({0, len(trace["actions"]) // 2}):
        replay = _Replaying(bench, trace, compared=repeatable)
        for _ in range(at + 1):
            replay.advance()
        if replay.finished:
            continue  # it was not as it was recorded, or ended before
        before = time.perf_counter()
        state = replay.stage.call("checkpoint")
        seconds = time.perf_counter() - before
        try:
            packed = values.encode(state)
        except (TypeError, ValueError) as error:
            raise EnvironmentBroke(
                "checkpoint()", "returned", f"what has no form on the wire: {error}"
            ) from error
        found.append(
            {
                "at": at,
                "state": base64.b64encode(packed).decode(),
                "bytes": len(packed),
                "seconds": seconds,
                "grade": _grade(replay.stage, twice=True),
                "disturbed": replay.run(),
            }
        )
        if bench.spent():
            break
    return {"checkpoints": found}


def measure_restores(bench: Bench, trace: Record, checkpoints: list[Record], repeatable: bool) -> Record:
    """Restore checkpoints into fresh instances, grade these, and play what followed; of each the first difference, or
    None, and whether its grade differs."""
    differs: list[int | None] = []
    regraded: list[bool] = []
    for checkpoint in checkpoints:
        replay = _Replaying(bench, trace, compared=repeatable)
        replay.stage.call("restore", values.decode(base64.b64decode(checkpoint["state"])))
        grade = checkpoint["grade"]
        regraded.append(grade is not None and _grade(replay.stage) != grade)
        replay.next = checkpoint["at"] + 1
        differs.append(replay.run())
        if bench.spent():
            break
    return {"differs": differs, "regraded": regraded}


def _grade(stage: Stage, *, twice: bool = False) -> str | None:
    """The grade of the episode as it stands. None where it has none, and where it is not the same when asked for
    ``twice``."""
    if not stage.has("reward"):
        return None
    try:
        grades = {reward_row(stage.call("reward"), 0)[0] for _ in range(1 + twice)}
    except Refusal:
        return None
    return base64.b64encode(grades.pop()).decode() if len(grades) == 1 else None


class _Replaying:
    """A recorded episode being played again. ``beside`` others, it has its own state of the global generators where
    a worker would keep it. Where it is not ``compared``, nothing differs from what was recorded but an exception."""

    def __init__(self, bench: Bench, trace: Record, *, beside: bool = False, compared: bool = True) -> None:
        self.trace = trace
        self.next = 0
        self.steps = 0
        self.differs: int | None = None
        self.finished = False
        self._bench = bench
        self._compared = compared
        swaps = beside and keeps_generators(bench.definition.declaration)
        self._generators = _Generators() if swaps else None
        with self._own_generators():
            self.stage = Stage(bench.definition, trace["seed"])

    def run(self) -> int | None:
        """Play to the end, to the first difference, or until the time is spent."""
        while not self.finished:
            self.advance()
            if self.steps and self._bench.spent():
                self.finish()
        return self.differs

    def advance(self) -> None:
        """Play one command and compare its digest."""
        if self.finished:
            return
        index = self.next
        if index >= len(self.trace["digests"]):
            self.finish()
            return
        done = False
        with self._own_generators():
            try:
                if index == 0:
                    seen = self.stage.reset(self.trace["seed"])
                else:
                    self.steps += 1
                    seen = self.stage.step(_unpacked(self.trace["actions"][index - 1]))
                same = not self._compared or f"{seen.digest:016x}" == self.trace["digests"][index]
                done = seen.done
            except EnvironmentBroke:
                same = False
        self.next += 1
        if not same:
            self.differs = index
        if done or not same:
            self.finish()

    def finish(self) -> None:
        """Close it, once."""
        if not self.finished:
            self.finished = True
            with self._own_generators():
                self.stage.close()

    def _own_generators(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._generators is None else self._generators.own()


class _Generators:
    """One episode's state of the global generators, as a worker keeps it where ``global_random`` is declared."""

    def __init__(self) -> None:
        self._state = GENERATORS.save()

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        outside = GENERATORS.save()
        GENERATORS.load(self._state)
        try:
            yield
        finally:
            self._state = GENERATORS.save()
            GENERATORS.load(outside)


def _packed(action: Any) -> str:
    return base64.b64encode(values.encode(action)).decode()


def _unpacked(text: str) -> Any:
    return values.decode(base64.b64decode(text))
