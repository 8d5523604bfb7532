"""Steps per second of envmesh and its peers, interleaved: ``python -m benchmarks steps``.

At each concurrency every peer is connected, and then they take turns: a round each, again and again, in an order that
shifts, so that whatever else the machine does meets all of them alike. What counts is the ratio of rounds that stood
side by side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers import PEERS, Peer
from benchmarks.processes import PeerFailed, PeerProcesses

CONNECT_SECONDS = 60.0
ROUND_SECONDS = 60.0
SETTLE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. ``experiments`` is GRPC_EXPERIMENTS for all processes."""

    names: Sequence[str] = tuple(PEERS)
    concurrencies: Sequence[int] = (1, 64, 1024, 4096)
    rounds: int = 5
    warm_up: float = 0.3
    seconds: float = 1.2
    experiments: str = ""


@dataclass(slots=True)
class Rounds:
    """A peer's rounds at one concurrency; a round that is missing for others is missing here too."""

    steps_per_second: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Line:
    """A peer's results: rounds by concurrency, and why it stopped, where it did."""

    peer: Peer
    rounds: dict[int, Rounds] = field(default_factory=dict)
    failure: str = ""


async def run(plan: Plan) -> list[Line]:
    """Run the plan; a peer that fails is left out from then on, and its line says why."""
    lines = [Line(PEERS[name]) for name in plan.names]
    async with AsyncExitStack() as stack:
        processes: dict[str, PeerProcesses] = {}
        environment = {"GRPC_EXPERIMENTS": plan.experiments} if plan.experiments else {}
        for line in lines:
            try:
                started = await stack.enter_async_context(PeerProcesses(line.peer, environment))
            except (PeerFailed, OSError) as error:
                _failed(line, error)
            else:
                processes[line.peer.name] = started
        for concurrency in plan.concurrencies:
            await _run_at(concurrency, plan, lines, processes)
    return lines


async def _run_at(
    concurrency: int, plan: Plan, lines: list[Line], processes: dict[str, PeerProcesses]
) -> None:
    playing = [line for line in lines if not line.failure and line.peer.most >= concurrency]
    for line in playing:
        await _order(line, processes, CONNECT_SECONDS, connect=concurrency)
    for number in range(-1, plan.rounds):
        shift = number % max(1, len(playing))
        for line in playing[shift:] + playing[:shift]:
            if line.failure:
                continue
            seconds = plan.seconds if number >= 0 else plan.seconds / 4  # the round before the first warms up
            answer = await _order(line, processes, ROUND_SECONDS, warm_up=plan.warm_up, seconds=seconds)
            await asyncio.sleep(SETTLE_SECONDS)
            if answer and number >= 0:
                rounds = line.rounds.setdefault(concurrency, Rounds())
                rounds.steps_per_second.append(answer["steps"] / answer["seconds"])
                rounds.latencies += answer["latencies"]
        print(f"{concurrency:>6} episodes, round {number + 1} of {plan.rounds}", flush=True)
    for line in playing:
        if not line.failure:
            await _order(line, processes, CONNECT_SECONDS, disconnect=True)


async def _order(
    line: Line, processes: dict[str, PeerProcesses], timeout: float, **order: Any
) -> dict[str, Any] | None:
    try:
        return await processes[line.peer.name].order(timeout, **order)
    except PeerFailed as error:
        _failed(line, error)
        await processes[line.peer.name].stop()
        return None


def _failed(line: Line, error: Exception) -> None:
    line.failure = str(error)
    print(f"{line.peer.name} is out: {line.failure}", flush=True)
