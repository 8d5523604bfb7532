"""Measurements of what can be rebuilt: the same episode alone, beside others, in another process, from a checkpoint."""

from __future__ import annotations

import base64
import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from envmesh import values
from envmesh_cli.check.actions import Chooser
from envmesh_cli.check.measure_play import Bench, Record
from envmesh_cli.check.stage import EnvironmentBroke, Stage

__all__ = [
    "measure_checkpoints",
    "measure_neighbours",
    "measure_replays",
    "measure_restores",
    "measure_traces",
]


def measure_traces(bench: Bench, seeds: list[int]) -> Record:
    """Play an episode a seed, each on an instance of its own; with actions and digests, as a journal has them."""
    traces: list[Record] = []
    for seed in seeds:
        stage = Stage(bench.definition)
        seen = stage.reset(seed)
        chooser = Chooser(stage, bench.seed, bench.pool)  # the same choices whatever the seed
        actions: list[str] = []
        digests = [f"{seen.digest:016x}"]
        while len(actions) < bench.steps and not seen.done and not bench.spent():
            action = chooser.choose(seen)
            actions.append(_packed(action))
            seen = stage.step(action)
            digests.append(f"{seen.digest:016x}")
        stage.close()
        traces.append({"seed": seed, "actions": actions, "digests": digests})
    return {"traces": traces}


def measure_replays(bench: Bench, traces: list[Record]) -> Record:
    """Play recorded episodes again; the first outcome that differs, for each, or None."""
    return {"differs": [_Replaying(bench, trace).run() for trace in traces]}


def measure_neighbours(bench: Bench, traces: list[Record]) -> Record:
    """Play recorded episodes side by side, a step of each in turn, as a process that many share would."""
    swap = bench.definition.declaration.global_random
    replays = [_Replaying(bench, trace, swap=swap) for trace in traces]
    while not all(replay.finished for replay in replays):
        for replay in replays:
            replay.advance()
    return {"differs": [replay.differs for replay in replays], "swapped": swap}


def measure_checkpoints(bench: Bench, trace: Record) -> Record:
    """Take a checkpoint in the middle of a recorded episode and at its start, and go on."""
    found: list[Record] = []
    for at in sorted({0, len(trace["actions"]) // 2}):
        replay = _Replaying(bench, trace)
        for _ in range(at + 1):
            replay.advance()
        before = time.perf_counter()
        state = replay.stage.call("checkpoint")
        seconds = time.perf_counter() - before
        try:
            packed = values.encode(state)
        except (TypeError, ValueError) as error:
            raise EnvironmentBroke(
                "checkpoint()", "returned", f"what has no form on the wire: {error}"
            ) from error
        disturbed = replay.run()
        found.append(
            {
                "at": at,
                "state": base64.b64encode(packed).decode(),
                "bytes": len(packed),
                "seconds": seconds,
                "disturbed": disturbed,
            }
        )
    return {"checkpoints": found}


def measure_restores(bench: Bench, trace: Record, checkpoints: list[Record]) -> Record:
    """Restore checkpoints into fresh instances and play what followed; the first difference of each, or None."""
    differs: list[int | None] = []
    for checkpoint in checkpoints:
        replay = _Replaying(bench, trace, begin=False)
        replay.stage.call("restore", values.decode(base64.b64decode(checkpoint["state"])))
        replay.next = checkpoint["at"] + 1
        differs.append(replay.run())
    return {"differs": differs}


class _Replaying:
    """A recorded episode being played again."""

    def __init__(self, bench: Bench, trace: Record, *, swap: bool = False, begin: bool = True) -> None:
        self.trace = trace
        self.next = 0
        self.differs: int | None = None
        self.finished = False
        self._generators = _Generators() if swap else None
        with self._own_generators():
            self.stage = Stage(bench.definition)

    def run(self) -> int | None:
        """Play to the end, or to the first difference."""
        while not self.finished:
            self.advance()
        return self.differs

    def advance(self) -> None:
        """Play one command and compare its digest."""
        if self.finished:
            return
        index = self.next
        if index >= len(self.trace["digests"]):
            self.finished = True
            self.stage.close()
            return
        with self._own_generators():
            try:
                if index == 0:
                    seen = self.stage.reset(self.trace["seed"])
                else:
                    seen = self.stage.step(_unpacked(self.trace["actions"][index - 1]))
                same = f"{seen.digest:016x}" == self.trace["digests"][index]
            except EnvironmentBroke:
                same = False
        self.next += 1
        if not same:
            self.differs = index
            self.finished = True
            self.stage.close()

    def _own_generators(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._generators is None else self._generators.own()


class _Generators:
    """One episode's state of the global generators, as a worker keeps it where ``global_random`` is declared."""

    def __init__(self) -> None:
        self._state = random.getstate(), np.random.get_state()

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        outside = random.getstate(), np.random.get_state()
        random.setstate(self._state[0])
        np.random.set_state(self._state[1])
        try:
            yield
        finally:
            self._state = random.getstate(), np.random.get_state()
            random.setstate(outside[0])
            np.random.set_state(outside[1])


def _packed(action: Any) -> str:
    return base64.b64encode(values.encode(action)).decode()


def _unpacked(text: str) -> Any:
    return values.decode(base64.b64decode(text))
