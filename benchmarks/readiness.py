"""What it costs to be ready for a loss, while nothing is lost; a part of ``benchmarks.recovery``.

The host ``unready`` is the host as it is, but that its outcomes have no digest; ``python -m benchmarks.readiness
serve …`` is ``envmesh serve`` so. The client without journals is the client as it is, but that it believes no episode
can be rebuilt. A rollout's trajectory is its journal, so for rollouts only the digests are left to be saved.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import envmesh
from benchmarks.job import ACTIONS, Tally
from envmesh import episode as client_episode
from envmesh.mesh import Mesh
from envmesh_cli.main import main
from envmesh_host import served

__all__ = ["measure", "summary"]

ROOT = Path(__file__).resolve().parent.parent
CONCURRENCY = 1_000
WARM_UP_SECONDS, ROUND_SECONDS = 0.5, 2.0
WALK = "walk=benchmarks.walks:State"
HEAVY = "heavy=benchmarks.walks:State?ballast=100000"
ECHO = "echo=envmesh_environments.echo:Echo"


@contextlib.asynccontextmanager
async def _host(module: str, *targets: str) -> AsyncIterator[str]:
    command = (sys.executable, "-m", module, "serve", *targets, "--listen", "127.0.0.1:0", "--json")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ENVMESH_HOST_SLOTS": str(10 * CONCURRENCY)}
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())["address"]
    finally:
        process.terminate()
        await process.wait()


@contextlib.contextmanager
def _without_journals() -> Iterator[None]:
    state: Any = client_episode.EpisodeState
    kept = state.keeps_journal
    state.keeps_journal = property(lambda self: False)
    try:
        yield
    finally:
        state.keeps_journal = kept


async def _rate(playing: Coroutine[Any, Any, None], tally: Tally) -> float:
    """Steps per second of what counts its steps in ``tally``, once it is under way. It is cut off, for its episodes may
    take minutes to their ends."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(playing, name="play")
        await asyncio.wait([task], timeout=WARM_UP_SECONDS)
        begun, before = time.perf_counter(), tally.steps
        await asyncio.wait([task], timeout=ROUND_SECONDS)
        ended, after = time.perf_counter(), tally.steps
        task.cancel()
    return (after - before) / (ended - begun)


async def _rollouts(mesh: Mesh, environment: str, action: Any) -> float:
    tally = Tally()

    def policy(observation: Any) -> Any:
        tally.steps += 1
        return action

    async def play() -> None:
        async with mesh.rollouts(environment, policy, concurrency=CONCURRENCY) as trajectories:
            async for trajectory in trajectories:
                if trajectory.failure is not None:
                    raise RuntimeError(f"{environment}: {trajectory.failure}")

    return await _rate(play(), tally)


async def _coroutines(mesh: Mesh, environment: str, action: Any) -> float:
    tally = Tally()

    async def play(seed: int) -> None:
        while True:
            async with mesh.episode(environment, seed=seed) as episode:
                while not episode.done:
                    await episode.step(action)
                    tally.steps += 1

    async def play_all() -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(CONCURRENCY):
                group.create_task(play(seed), name=f"play-{seed}")

    return await _rate(play_all(), tally)


async def measure(rounds: int) -> dict[str, Any]:
    """Steps per second of every side in every round; the first round of each warms up and is left out."""
    rates: dict[str, list[float]] = {}

    async def note(name: str, playing: Any) -> None:
        rates.setdefault(name, []).append(await playing)

    async with contextlib.AsyncExitStack() as stack:

        async def connected(module: str, *targets: str, **settings: Any) -> Mesh:
            address = await stack.enter_async_context(_host(module, *targets))
            return await stack.enter_async_context(envmesh.connect(address, **settings))

        ready = await connected("envmesh_cli", ECHO)
        unready = await connected(__name__ if __name__ != "__main__" else "benchmarks.readiness", ECHO)
        walks = await stack.enter_async_context(_host("envmesh_cli", WALK, HEAVY))
        savers = {
            steps: await stack.enter_async_context(envmesh.connect(walks, checkpoint_steps=steps))
            for steps in (1_000_000, 100, 10, 1)
        }
        for number in range(rounds + 1):
            order = (True, False) if number % 2 else (False, True)
            for is_ready in order:
                mesh = ready if is_ready else unready
                with contextlib.nullcontext() if is_ready else _without_journals():
                    word = "ready" if is_ready else "unready"
                    await note(f"echo rollouts {word}", _rollouts(mesh, "echo", ACTIONS[0]))
                    await note(f"echo coroutines {word}", _coroutines(mesh, "echo", ACTIONS[0]))
            for steps, mesh in savers.items():
                for environment in ("walk", "heavy"):
                    if environment == "walk" or steps != 1:
                        await note(f"{environment} saved every {steps}", _rollouts(mesh, environment, 1))
            print(f"readiness: round {number} of {rounds}", file=sys.stderr, flush=True)
    return {
        "rates": {name: [round(rate) for rate in found[1:]] for name, found in rates.items()},
        "cost": {form: _cost(rates[f"echo {form} ready"], rates[f"echo {form} unready"])
                 for form in ("rollouts", "coroutines")},
        "checkpoints": {name: _cost(found, rates[f"{name.split()[0]} saved every 1000000"])
                        for name, found in rates.items() if "saved" in name and not name.endswith("1000000")},
    }  # fmt: skip


def _cost(mine: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """The part of steps per second that is lost: the median of the rounds' ratios, and its range."""
    costs = [1.0 - one / two for one, two in zip(mine[1:], other[1:], strict=True)]
    return {
        "median": round(statistics.median(costs), 4),
        "least": round(min(costs), 4),
        "most": round(max(costs), 4),
    }


def summary(found: dict[str, Any]) -> str:
    """The costs as a Markdown table."""
    rows = ["| while nothing fails | steps/s | lost, median (range) |", "|---|---|---|"]
    for form, cost in found["cost"].items():
        rows.append(_row(f"journals and digests, echo, {form}", found["rates"][f"echo {form} ready"], cost))
    for name, cost in found["checkpoints"].items():
        rows.append(_row(f"{name} steps".replace("heavy", "walk with 100 KB"), found["rates"][name], cost))
    return "\n".join(rows)


def _row(name: str, rates: Sequence[float], cost: dict[str, float]) -> str:
    middle = statistics.median(rates)
    return f"| {name} | {middle:,.0f} | {cost['median']:.1%} ({cost['least']:.1%} to {cost['most']:.1%}) |"


if __name__ == "__main__":
    served.xxh3_64_intdigest = served.digest_of = lambda *data: 0  # type: ignore[assignment, attr-defined]
    sys.exit(main())
