"""``envmesh serve`` with nothing observed: what ``benchmarks.metrics_cost`` compares with. For measuring only.

The meters throw away what they are given, commands are not counted, and a frame's steps are taken without a look at the
clock. Everything else is the host as it is.
"""

from __future__ import annotations

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
from envmesh_host.testimony import BEGAN

__all__ = ["unobserve"]


def unobserve() -> None:
    """Take observation out of this process."""
    observed_step = StepBatches._step

    def step(self: StepBatches, environment: Hosted, batch: Batch, arrived: float) -> None:
        try:
            actions = environment.read_actions(batch.payloads)
        except Exception:
            self._row_by_row(batch)
            return
        begun = self._watch[BEGAN] = time.perf_counter()
        try:
            results = list(map(call, [copy.play for copy in batch.copies], actions))
        except BaseException:  # nothing fails here; were it so, the whole would be measured twice, and wrong
            observed_step(self, environment, batch, arrived)
            return
        finally:
            self._watch[BEGAN] = 0.0
        environment.step_cost += 0.2 * ((time.perf_counter() - begun) / len(results) - environment.step_cost)
        self._settle(environment, batch, results)

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def drop(self: HostMeters) -> None:
        self._engine.take_traffic()
        for hosted in self._engine.hosted.values():
            hosted.take_observed()

    StepBatches._step = step  # type: ignore[method-assign]
    HostMeters.flush = drop  # type: ignore[method-assign]
    Engine._note_time = nothing  # type: ignore[method-assign]
    for name in ("note_command", "note_seconds", "note_resume"):
        setattr(Traffic, name, nothing)


if __name__ == "__main__":
    unobserve()
    sys.exit(main())
