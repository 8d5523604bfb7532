"""How long a step of a lone episode takes, beside a bare bidirectional echo: ``python -m benchmarks latency``.

Each line runs twice, with gRPC's event engine as it comes and switched off, for it costs a lone step much more than
anything else does. GRPC_EXPERIMENTS must be set before grpc is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.ratios import median_rate, percentile
from benchmarks.steps import Line, Plan, run

EVENT_ENGINE_OFF = "-event_engine_client,-event_engine_listener,-event_engine_callback_cq"
"""What switches it off in grpcio 1.76 to 1.85; a name that a version does not know is logged and ignored."""

ECHO = "echo"
NAMES = (ECHO, "stream", "bare-tasks", "envmesh-coroutines", "envmesh-rollouts")


@dataclass(frozen=True, slots=True)
class Latency:
    """A line at one setting: seconds a step at concurrency 1, and steps per second at 1,024."""

    name: str
    experiments: str
    p50: float | None
    p99: float | None
    times_echo: float | None
    steps_per_second: float | None


async def measure(plan: Plan, busy: int = 1024) -> list[Latency]:
    """Run both settings one after the other, the lines of each interleaved."""
    found: list[Latency] = []
    for experiments in ("", EVENT_ENGINE_OFF):
        print(f"GRPC_EXPERIMENTS={experiments}", flush=True)
        lines = await run(
            dataclasses.replace(plan, names=NAMES, concurrencies=(1, busy), experiments=experiments)
        )
        found += _latencies(lines, experiments, busy)
    return found


def _latencies(lines: Sequence[Line], experiments: str, busy: int) -> list[Latency]:
    echo = next((_p(line, 0.5) for line in lines if line.peer.name == ECHO), None)
    return [
        Latency(
            line.peer.name, experiments, p50 := _p(line, 0.5), _p(line, 0.99),
            p50 / echo if p50 and echo else None, median_rate(line, busy),
        )
        for line in lines
    ]  # fmt: skip


def _p(line: Line, share: float) -> float | None:
    return percentile(line.rounds[1].latencies, share) if 1 in line.rounds else None
