"""What metrics cost: steps per second with everything observed, beside the same with nothing observed.

``python -m benchmarks.metrics_cost``. The echo environment (the cheapest steps there are, so the dearest observation),
first inline, then in worker processes; the host on one core, the trainer on another. Two processes of one program
differ by a tenth for as long as they live (where the system put their memory), which is more than what is asked. So
the same two processes play both sides: they take turns of half a second, and the host is told to observe or not
between them (``benchmarks.switched_host``); a ratio is of ten turns of each, and after some ratios a new host is
started. The trainer takes each episode's return, as all do. With everything: each step observed, the trainer's
``ClientMetrics`` too, and both read once in ten turns, which is every five seconds (the chart asks for every fifteen).
With nothing: no observation, no scrape.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import envmesh
from benchmarks.job import ACTIONS, STEPS
from envmesh.metrics import ClientMetrics

__all__ = ["main"]

MOST = 0.05
"""The part of steps per second that metrics may cost."""

RESULT = Path(__file__).parent / "results" / "metrics_cost.json"

TARGET = "echo=envmesh_environments.echo:Echo"
TURNS = 10
SWITCH_SECONDS = 0.1


@dataclass
class Host:
    """A host process that observes or not."""

    process: asyncio.subprocess.Process
    address: str
    metrics: str
    observes: bool = True

    async def observe(self, wanted: bool) -> None:
        """Have it observe, or not."""
        if self.observes != wanted:
            self.process.send_signal(signal.SIGUSR2)
            self.observes = wanted
        await asyncio.sleep(SWITCH_SECONDS)


@contextlib.asynccontextmanager
async def _host(isolation: str, concurrency: int, cores: Sequence[int]) -> AsyncIterator[Host]:
    command = (sys.executable, "-m", "benchmarks.switched_host", "serve", TARGET, "--listen", "127.0.0.1:0", "--json",
               "--isolation", isolation, "--workers", "1", "--slots", str(concurrency))  # fmt: skip
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # a process keeps to the cores of who started it
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    os.sched_setaffinity(0, mine)
    assert process.stdout is not None
    try:
        announced = json.loads(await process.stdout.readline())
        yield Host(process, announced["address"], announced["metrics"])
    finally:
        process.terminate()
        await process.wait()


async def _turn(
    mesh: envmesh.Mesh,
    host: Host,
    meters: ClientMetrics | None,
    scraped: bool,
    episodes: int,
    concurrency: int,
) -> float:
    """Play, and return the seconds."""
    await host.observe(meters is not None)
    mesh.meters = meters
    begun = time.perf_counter()
    total = 0.0
    async with asyncio.TaskGroup() as group:
        if meters is not None and scraped:
            group.create_task(_scrape(host, meters), name="scrape")
        async for trajectory in mesh.rollouts(
            "echo", lambda observation: ACTIONS[0], episodes=episodes, concurrency=concurrency
        ):
            if trajectory.failure is not None:
                raise trajectory.failure
            total += trajectory.return_ or 0.0
    assert total == episodes * STEPS * ACTIONS[0][0], total
    return time.perf_counter() - begun


async def _scrape(host: Host, meters: ClientMetrics) -> None:
    await asyncio.to_thread(lambda: urllib.request.urlopen(host.metrics, timeout=5).read())
    list(meters.collect())


async def measure(
    isolation: str, cores: Sequence[int], starts: int, ratios: int, episodes: int, concurrency: int
) -> dict[str, object]:
    """The rates of both sides, and what metrics cost: the median over pairs of ten turns each."""
    on: list[float] = []
    off: list[float] = []
    for start in range(starts):
        # Workers are the host's children: with them, it has all cores.
        host_cores = cores[:1] if isolation == "inline" else cores
        async with (
            _host(isolation, concurrency, host_cores) as host,
            envmesh.connect(host.address) as mesh,
        ):
            meters = ClientMetrics(mesh)
            await _turn(mesh, host, meters, True, episodes, concurrency)  # warms up
            for _ in range(ratios):
                seconds = {True: 0.0, False: 0.0}
                for turn in range(TURNS):
                    for observed in (True, False) if turn % 2 else (False, True):
                        chosen = meters if observed else None
                        seconds[observed] += await _turn(
                            mesh, host, chosen, turn == TURNS // 2, episodes, concurrency
                        )
                for observed, rates in ((True, on), (False, off)):
                    rates.append(TURNS * episodes * STEPS / seconds[observed])
        ratio = statistics.median(a / b for a, b in zip(on[-ratios:], off[-ratios:], strict=True))
        print(
            f"{isolation}, start {start + 1} of {starts}: {ratio:.3f} of {off[-1]:,.0f} steps/s", flush=True
        )
    found = [a / b for a, b in zip(on, off, strict=True)]

    def told(values: list[float], digits: int | None = None) -> dict[str, float]:
        three = {"median": statistics.median(values), "least": min(values), "most": max(values)}
        return {name: round(value, digits) for name, value in three.items()}

    return {
        "steps_per_second": {"observed": told(on), "not": told(off)},
        "ratios": told(found, 4),
        "cost": round(1 - statistics.median(found), 4),
    }


def main() -> int:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=6, help="of a new host")
    parser.add_argument("--ratios", type=int, default=3, help="with each host")
    parser.add_argument("--episodes", type=int, default=4_000, help="of 32 steps, in a turn inline")
    parser.add_argument("--concurrency", type=int, default=1_000)
    parser.add_argument("--isolation", nargs="*", default=["inline", "process"])
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])  # the trainer is this process
    result: dict[str, object] = {
        "what": "steps a second with everything observed and scraped every five seconds, beside nothing observed:"
        " short turns of the same processes",
        "python": platform.python_version(),
        "grpc": version("grpcio"),
        "cpus": os.cpu_count(),
        "starts": arguments.starts,
        "ratios": arguments.ratios,
        "concurrency": arguments.concurrency,
        "bound": MOST,
    }
    costs = []
    for isolation in arguments.isolation:
        episodes = arguments.episodes if isolation == "inline" else arguments.episodes // 6
        measured = asyncio.run(
            measure(isolation, cores, arguments.starts, arguments.ratios, episodes, arguments.concurrency)
        )
        print(isolation, json.dumps(measured))
        costs.append(measured["cost"])
        result[isolation] = measured
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(cost <= MOST for cost in costs) else 1  # type: ignore[operator]


if __name__ == "__main__":
    sys.exit(main())
