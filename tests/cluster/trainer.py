"""``python -m tests.cluster.trainer``: a trainer on the cluster's network. JSON lines on standard output.

It plays ``--episodes``, by default of a walk whose trajectory is known, each step taking ``--pace`` seconds of thought,
and says every half second how far it is; the last line is the sum. The end of its standard input ends it early, in good
order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections import Counter
from typing import Any

import envmesh
from envmesh.errors import EnvmeshError
from tests.cluster.worlds import LENGTH


class Tally:
    """What became of the episodes."""

    def __init__(self) -> None:
        self.whole = self.wrong = self.resumed = 0
        self.failures: Counter[str] = Counter()
        self.hosts: Counter[str] = Counter()
        self.peak = 0

    def add(self, trajectory: Any) -> None:
        """One more."""
        self.hosts[trajectory.host] += 1
        self.resumed += bool(trajectory.resumes)
        if trajectory.failure is not None:
            self.failures[f"{trajectory.failure.cause}: {trajectory.failure.message}"[:300]] += 1
        elif _as_it_should_be(trajectory):
            self.whole += 1
        else:
            self.wrong += 1

    def line(self, **more: Any) -> str:
        """As JSON."""
        return json.dumps(
            {
                "whole": self.whole, "wrong": self.wrong, "resumed": self.resumed,
                "failed": sum(self.failures.values()),
                "failures": dict(self.failures.most_common(5)), "hosts": len(self.hosts), "peak": self.peak,
                "places": sorted(self.hosts)[:20], **more,
            }
        )  # fmt: skip


def _as_it_should_be(trajectory: Any) -> bool:
    """A walk is known before it is played; of CartPole, that it pays one for each step."""
    steps = len(trajectory.observations) - 1
    if trajectory.environment.partition("@")[0] == "cartpole":
        return bool(trajectory.return_ == steps > 0)
    return bool(trajectory.return_ == steps == LENGTH) and list(trajectory.observations) == [
        trajectory.seed + step for step in range(LENGTH + 1)
    ]


async def train(arguments: argparse.Namespace) -> Tally:
    """Play."""
    tally, running = Tally(), True
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def read() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, name="stdin", daemon=True).start()

    async def policy(observation: Any) -> int:
        await asyncio.sleep(arguments.pace)
        return 1

    async def tell() -> None:
        while running:
            print(tally.line(at=time.time()), flush=True)
            await asyncio.sleep(0.5)

    async def play() -> None:
        more: dict[str, Any] = {"plaintext": True} if arguments.plaintext else {}
        async with envmesh.connect(arguments.mesh, slot_timeout=300.0, **more) as mesh:
            rollouts = mesh.rollouts(
                arguments.environment,
                policy,
                episodes=arguments.episodes,
                concurrency=arguments.concurrency,
                seed=1,
            )
            async with rollouts:
                async for trajectory in rollouts:
                    tally.add(trajectory)
                    tally.peak = rollouts.peak
                    if ended.is_set():
                        return

    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(tell(), name="tell")
        try:
            await play()
        except EnvmeshError as error:  # it may not play on at all
            tally.failures[f"refused: {error}"] += 1
        finally:
            running = False
            telling.cancel()
    return tally


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", required=True)
    parser.add_argument("--environment", default="walk")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--pace", type=float, default=0.1)
    parser.add_argument("--plaintext", action="store_true")
    arguments = parser.parse_args()
    tally = asyncio.run(train(arguments))
    print(tally.line(done=True), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
