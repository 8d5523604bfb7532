"""What metrics cost: steps per second with everything observed, beside the same host that observes nothing.

``python -m benchmarks.metrics_cost``. Both hosts have a process of their own, serve the echo environment (the cheapest
steps there are, so the dearest observation), and take turns for short rounds, so that whatever else the machine does
meets both alike; first inline, then in worker processes. With everything: each step observed, the port scraped every
second, and a trainer whose ``ClientMetrics`` are collected as often. With nothing: ``benchmarks.unobserved_host``, no
scrape, no trainer's metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

import envmesh
from benchmarks.job import ACTIONS
from envmesh.metrics import ClientMetrics

__all__ = ["main"]

MOST = 0.05
"""The part of steps per second that metrics may cost."""

RESULT = Path(__file__).parent / "results" / "metrics_cost.json"

TARGET = "echo=envmesh_environments.echo:Echo"
MODULES = {True: "envmesh_cli", False: "benchmarks.unobserved_host"}


class Side:
    """One of the two: a host, a client, and whether they are observed."""

    def __init__(self, metrics: str, mesh: envmesh.Mesh, observed: bool) -> None:
        self.metrics, self.mesh = metrics, mesh
        self.meters = ClientMetrics(mesh) if observed else None
        self.rates: list[float] = []

    async def round(self, episodes: int, concurrency: int) -> None:
        """Play, and note the rate."""
        scraping = asyncio.get_running_loop().create_task(self._scrape(), name="scrape")
        begun, steps = time.perf_counter(), 0
        async for trajectory in self.mesh.rollouts(
            "echo", lambda observation: ACTIONS[0], episodes=episodes, concurrency=concurrency
        ):
            steps += len(trajectory)
        self.rates.append(steps / (time.perf_counter() - begun))
        scraping.cancel()
        await asyncio.gather(scraping, return_exceptions=True)

    async def _scrape(self) -> None:
        while self.meters is not None:
            await asyncio.to_thread(lambda: urllib.request.urlopen(self.metrics, timeout=5).read())
            list(self.meters.collect())
            await asyncio.sleep(1.0)


@contextlib.asynccontextmanager
async def _host(module: str, isolation: str) -> AsyncIterator[tuple[str, str]]:
    """A host process: its address, and where its metrics are."""
    command = (sys.executable, "-m", module, "serve", TARGET, "--listen", "127.0.0.1:0", "--json",
               "--isolation", isolation, "--workers", "1", "--slots", "1024")  # fmt: skip
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        announced = json.loads(await process.stdout.readline())
        yield announced["address"], announced["metrics"]
    finally:
        process.terminate()
        await process.wait()


async def measure(isolation: str, rounds: int, episodes: int, concurrency: int) -> dict[str, object]:
    """The rates of both, and what metrics cost: the median over pairs of neighbouring rounds."""
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for observed in (True, False):
            address, metrics = await stack.enter_async_context(_host(MODULES[observed], isolation))
            mesh = await stack.enter_async_context(envmesh.connect(address))
            sides.append(Side(metrics, mesh, observed))
        for number in range(rounds + 1):
            for side in sides if number % 2 else reversed(sides):
                await side.round(episodes, concurrency)
        on, off = (side.rates[1:] for side in sides)  # the first round warms up
    ratios = [a / b for a, b in zip(on, off, strict=True)]

    def told(values: list[float], digits: int | None = None) -> dict[str, float]:
        found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
        return {name: round(value, digits) for name, value in found.items()}

    return {
        "steps_per_second": {"observed": told(on), "not": told(off)},
        "ratios": told(ratios, 4),
        "cost": round(1 - statistics.median(ratios), 4),
    }


def main() -> int:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="pairs of rounds, after one that warms up")
    parser.add_argument("--episodes", type=int, default=6_000, help="of 32 steps, in a round inline")
    parser.add_argument("--concurrency", type=int, default=1_000)
    parser.add_argument("--isolation", nargs="*", default=["inline", "process"])
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    result: dict[str, object] = {
        "what": "steps a second with everything observed, beside nothing observed: pairs of rounds that take turns",
        "python": platform.python_version(),
        "grpc": version("grpcio"),
        "cpus": os.cpu_count(),
        "rounds": arguments.rounds,
        "concurrency": arguments.concurrency,
        "bound": MOST,
    }
    for isolation in arguments.isolation:
        episodes = arguments.episodes if isolation == "inline" else arguments.episodes // 3
        measured = asyncio.run(measure(isolation, arguments.rounds, episodes, arguments.concurrency))
        print(isolation, json.dumps(measured))
        result[isolation] = measured
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(result[isolation]["cost"] <= MOST for isolation in arguments.isolation) else 1  # type: ignore[index]


if __name__ == "__main__":
    sys.exit(main())
