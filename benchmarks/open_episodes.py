"""What open episodes cost: ``python -m benchmarks.open_episodes [idle|think|large]``.

* ``think``: 4,096 users' coroutines that think 50 to 150 ms (uniform) between steps of the echo environment. What is
  measured is the whole step as its coroutine sees it; the environment's own share of it is microseconds.
* ``large``: the same, with eight episodes of 3 MB observations among them, and the host's peak memory beside it.
* ``idle``: 10,000 and 50,000 episodes open on one host after one step with a 100-byte observation: bytes of resident
  memory an episode, on host and client, beyond those of the same processes with 1,000 episodes.

The host has the first core, the client the last; journals, digests, metrics and limits are on. The trainer's garbage
collector looks less often than Python's default (README, *Thousands of coroutines*): each look stops every episode.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import envmesh
from benchmarks.job import WrongObservation, gather
from benchmarks.processes import free_port
from benchmarks.ratios import percentile
from benchmarks.report import machine
from envmesh import event_loop
from envmesh_environments.echo import observation_of

RESULTS = Path(__file__).parent / "results" / "open_episodes.json"
TARGETS = ("echo=envmesh_environments.echo:Echo", "frames=envmesh_environments.echo:Frames?size=3000000")
ACTION = bytes(range(50))
LEAST_THOUGHT, MOST_THOUGHT = 0.05, 0.15
LARGE_EPISODES = 8
IDLE_BASE, IDLE_STEPS = 1_000, (10_000, 50_000)
AT_ONCE = 512
START_SECONDS = 60.0


def main() -> int:
    """Measure what is asked for, write the results, and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_episodes", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="of idle, think, large; default: all")
    parser.add_argument("--episodes", type=int, default=4096, help="that think; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=10.0, help="of thinking; default: %(default)s")
    arguments = parser.parse_args()
    chosen = arguments.parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if len(chosen) > 1:  # a process for each: what one leaves in memory is not measured with the next
        options = ["--episodes", str(arguments.episodes), "--seconds", str(arguments.seconds)]
        command = [sys.executable, "-m", "benchmarks.open_episodes", *options]
        return max(subprocess.run([*command, part], check=False).returncode for part in chosen)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    (part,) = chosen
    found = event_loop.run(_with_host(PARTS[part], arguments))
    results[part] = {"machine": machine(), **found}
    print(part, json.dumps(found, indent=1), flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 0


async def _with_host(part: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    port = free_port()
    settings = {"ENVMESH_HOST_SLOTS": str(IDLE_STEPS[-1] + AT_ONCE), "ENVMESH_HOST_LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "envmesh_cli", "serve", *TARGETS, "--listen", f"127.0.0.1:{port}"]
    os.sched_setaffinity(0, {cores[0]})  # whom a child takes after
    host = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **settings}, stdout=asyncio.subprocess.DEVNULL
    )
    os.sched_setaffinity(0, {cores[-1]})
    try:
        async with asyncio.timeout(START_SECONDS), envmesh.connect(f"127.0.0.1:{port}") as mesh:
            await mesh.environments()
        async with envmesh.connect(f"127.0.0.1:{port}") as mesh:
            found: dict[str, Any] = await part(mesh, host.pid, arguments)
            return found
    finally:
        os.sched_setaffinity(0, cores)
        host.terminate()
        try:
            await asyncio.wait_for(host.wait(), 10)
        except TimeoutError:
            host.kill()
            await host.wait()


# ---- thinking


async def think(mesh: Any, host: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tiny steps alone."""
    return await _thinking(mesh, host, arguments, 0)


async def think_beside_large(mesh: Any, host: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tiny steps beside large observations."""
    return await _thinking(mesh, host, arguments, LARGE_EPISODES)


async def _thinking(mesh: Any, host: int, arguments: argparse.Namespace, large: int) -> dict[str, Any]:
    open_now = asyncio.Barrier(arguments.episodes + large)
    tiny_seconds: list[float] = []
    large_seconds: list[float] = []
    dice = random.Random(1)
    begun: list[float] = []

    async def play(environment: str, action: Any, seconds: list[float], check: Any) -> None:
        async with AsyncExitStack() as stack:
            episode = await stack.enter_async_context(mesh.episode(environment, seed=1))
            await open_now.wait()
            begun[:1] = [time.perf_counter()]
            await asyncio.sleep(dice.uniform(0.0, MOST_THOUGHT))
            while time.perf_counter() - begun[0] < arguments.seconds:
                if episode.done:
                    await stack.aclose()
                    episode = await stack.enter_async_context(mesh.episode(environment, seed=1))
                at = time.perf_counter()
                outcome = await episode.step(action)
                seconds.append(time.perf_counter() - at)
                if not check(outcome.observation):
                    raise WrongObservation(f"{environment}: {outcome.observation!r:.80}")
                await asyncio.sleep(dice.uniform(LEAST_THOUGHT, MOST_THOUGHT))

    answer = observation_of(ACTION)
    players: list[Coroutine[Any, Any, None]] = [
        play("echo", ACTION, tiny_seconds, answer.__eq__) for _ in range(arguments.episodes)
    ]
    players += [play("frames", 7, large_seconds, _is_frame_of_sevens) for _ in range(large)]
    await gather(players)
    return {
        "episodes": arguments.episodes,
        "steps": len(tiny_seconds),
        "step_seconds": {f"p{round(share * 100)}": percentile(tiny_seconds, share) for share in (0.5, 0.9, 0.99)},
        "large_episodes": large,
        "large_steps": len(large_seconds),
        "host_peak_bytes": _memory(host, "VmHWM"),
    }  # fmt: skip


def _is_frame_of_sevens(frame: Any) -> bool:
    return len(frame) == 3_000_000 and frame[0] == 7 == frame[-1]


# ---- idle


async def idle(mesh: Any, host: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Episodes that are open and do nothing."""
    found: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        kept: list[Any] = []
        await _open(mesh, stack, kept, IDLE_BASE)
        base = _resident(host)
        for count in IDLE_STEPS:
            await _open(mesh, stack, kept, count)
            now = _resident(host)
            more = count - IDLE_BASE
            found[str(count)] = {
                "host_bytes_an_episode": round((now[0] - base[0]) / more),
                "client_bytes_an_episode": round((now[1] - base[1]) / more),
            }
        kept.clear()
    return found


async def _open(mesh: Any, stack: AsyncExitStack, kept: list[Any], count: int) -> None:
    async def one() -> None:
        episode = await stack.enter_async_context(mesh.episode("echo", seed=1))
        await episode.step(ACTION)
        kept.append(episode)

    while len(kept) < count:
        await gather(one() for _ in range(min(AT_ONCE, count - len(kept))))


def _resident(host: int) -> tuple[int, int]:
    gc.collect()
    return _memory(host, "VmRSS"), _memory(os.getpid(), "VmRSS")


def _memory(process: int, field: str) -> int:
    """Bytes of a process, as /proc counts them."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/{process}/status says no {field}")


PARTS = {"idle": idle, "think": think, "large": think_beside_large}


if __name__ == "__main__":
    sys.exit(main())
