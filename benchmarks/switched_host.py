"""``envmesh serve`` that SIGUSR2 stops from observing anything, and again lets observe. For measuring only.

While nothing is observed, the meters throw away what they are given, commands are not counted, and a frame's steps are
taken without a look at the clock. Everything else is the host as it is.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from operator import call
from typing import Any

from envmesh_cli.main import main
from envmesh_host.batches import Batch, StepBatches
from envmesh_host.engine import Engine
from envmesh_host.hosted import Hosted
from envmesh_host.meters import HostMeters
from envmesh_host.observed import Traffic
from envmesh_host.testimony import BEGAN, LIMIT

__all__ = ["switch_by_signal"]


Methods = list[tuple[type, str, Any]]
"""Classes, names of their methods, and what these are to be."""


def unobserved() -> Methods:
    """The methods of a host that observes nothing."""
    observed_step = StepBatches._step

    def step(self: StepBatches, environment: Hosted, batch: Batch, arrived: float) -> None:
        try:
            actions = environment.read_actions(batch.payloads)
        except Exception:
            self._row_by_row(batch)
            return
        self._watch[LIMIT] = environment.step_limit
        begun = self._watch[BEGAN] = time.perf_counter()
        try:
            results = list(map(call, [copy.play for copy in batch.copies], actions))
        except BaseException:  # nothing fails here; were it so, the whole would be measured twice, and wrong
            observed_step(self, environment, batch, arrived)
            return
        finally:
            self._watch[BEGAN] = self._watch[LIMIT] = 0.0
        environment.step_cost += 0.2 * ((time.perf_counter() - begun) / len(results) - environment.step_cost)
        self._settle(environment, batch, results)

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def drop(self: HostMeters) -> None:
        self._engine.take_traffic()
        for hosted in self._engine.hosted.values():
            hosted.take_observed()

    notes: Methods = [(Traffic, name, nothing) for name in ("note_command", "note_seconds", "note_resume")]
    return [
        (StepBatches, "_step", step),
        (HostMeters, "flush", drop),
        (Engine, "_note_time", nothing),
        *notes,
    ]


def switch_by_signal() -> None:
    """Observe, until SIGUSR2; then not, until the next; and so on."""
    without = unobserved()
    within: Methods = [(owner, name, getattr(owner, name)) for owner, name, _ in without]
    states = itertools.cycle((without, within))

    def switch(*_: Any) -> None:
        for owner, name, method in next(states):
            setattr(owner, name, method)

    signal.signal(signal.SIGUSR2, switch)


if __name__ == "__main__":
    switch_by_signal()
    sys.exit(main())
