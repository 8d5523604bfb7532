"""What a step costs beyond its way, to a host far away: ``python -m benchmarks.far_host [--trip MS]``.

Episodes of the echo environment that think 50 to 150 ms (uniform) between steps, over a relay that holds every byte for
half of the trip, each way. Beside envmesh in the same run: one grpc.aio stream an episode, where nothing gathers, so a
step takes the trip and what the two processes do. What is printed is the time beyond the trip, and the ratio of the two
whole steps. The relay has a process of its own; cores are shared, for nothing here is busy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import grpc

import envmesh
from benchmarks.job import gather, verify
from benchmarks.peers import reference_pb2_grpc
from benchmarks.peers.grpc_plain import StreamSession
from benchmarks.processes import free_port
from benchmarks.ratios import percentile
from benchmarks.report import machine
from envmesh import event_loop
from envmesh_environments.echo import observation_of

RESULTS = Path(__file__).parent / "results" / "far_host.json"
ACTION = bytes(range(50))
LEAST_THOUGHT, MOST_THOUGHT = 0.05, 0.15
START_SECONDS, SETTLE_SECONDS = 60.0, 2.0


def main() -> int:
    """Measure, write the results, and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.far_host", description=__doc__)
    parser.add_argument("--trip", type=float, default=40.0, metavar="MS", help="there and back; default: 40")
    parser.add_argument("--episodes", type=int, nargs="+", default=[16, 256, 2048], metavar="N")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each line; default: 5")
    parser.add_argument("--relay", type=int, nargs=2, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.relay:
        port, near = arguments.relay
        event_loop.run(relay(port, near, arguments.trip / 2e3))
        return 0
    lines = event_loop.run(measure(arguments))
    RESULTS.write_text(
        json.dumps({"machine": machine(), "trip": arguments.trip / 1e3, "lines": lines}, indent=1) + "\n"
    )
    return 0


async def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each number of episodes."""
    trip, lines = arguments.trip / 1e3, []
    print(f"{'episodes':>9} {'envmesh':>20} {'a stream an episode':>20}   (beyond the trip: p50, p99)")
    async with far("envmesh-coroutines", trip) as ours, far("stream", trip) as theirs:
        for episodes in arguments.episodes:
            seconds = {}
            async with envmesh.connect(f"127.0.0.1:{ours}") as mesh:
                loops = [Episodes(mesh) for _ in range(episodes)]
                seconds["envmesh"] = await think(loops, arguments.seconds)
                await gather(loop.close() for loop in loops)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{theirs}") as channel:
                seconds["stream"] = await think(
                    [Streams(channel) for _ in range(episodes)], arguments.seconds
                )
            line: dict[str, Any] = {"episodes": episodes}
            for name, values in seconds.items():
                line[name] = {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99)}
            line["ratio"] = line["envmesh"]["p50"] / line["stream"]["p50"]
            lines.append(line)
            words = [
                f"{1e3 * (line[n]['p50'] - trip):9.1f} {1e3 * (line[n]['p99'] - trip):7.1f} ms"
                for n in seconds
            ]
            print(f"{episodes:9,} {words[0]:>20} {words[1]:>20}   ratio {line['ratio']:.2f}", flush=True)
    return lines


async def think(loops: Sequence[Loop], seconds: float) -> list[float]:
    """Step each of these after a thought, for so long; seconds a step, resets and the first two seconds left out."""
    dice, times, answer = random.Random(1), [], observation_of(ACTION)
    begun = time.perf_counter()

    async def play(loop: Loop) -> None:
        await asyncio.sleep(dice.uniform(0.0, MOST_THOUGHT))
        while time.perf_counter() - begun < SETTLE_SECONDS + seconds:
            await loop.ready()
            at = time.perf_counter()
            verify(await loop.step(ACTION), answer)
            if at - begun > SETTLE_SECONDS:
                times.append(time.perf_counter() - at)
            await asyncio.sleep(dice.uniform(LEAST_THOUGHT, MOST_THOUGHT))

    await gather(play(loop) for loop in loops)
    return times


class Loop(Protocol):
    """A place for one episode after another."""

    async def ready(self) -> None:
        """Begin an episode unless one is under way."""
        ...

    async def step(self, action: bytes) -> bytes:
        """Act, and return the observation."""
        ...


class Episodes:
    """Those of envmesh."""

    def __init__(self, mesh: Any):
        self._mesh = mesh
        self._episode: Any = None

    async def ready(self) -> None:
        """Begin an episode unless one is under way."""
        if self._episode is None or self._episode.done:
            await self.close()
            self._episode = self._mesh.episode("echo", seed=1)
            await self._episode.begin()

    async def step(self, action: bytes) -> bytes:
        """Act, and return the observation."""
        observation: bytes = (await self._episode.step(action)).observation
        return observation

    async def close(self) -> None:
        """Give the slot back."""
        if self._episode is not None:
            await self._episode.close()


class Streams:
    """Those of a stream an episode."""

    def __init__(self, channel: Any):
        self._session = StreamSession(reference_pb2_grpc.ReferenceStub(channel))
        self._ended = True

    async def ready(self) -> None:
        """Begin an episode unless one is under way."""
        if self._ended:
            await self._session.reset()

    async def step(self, action: bytes) -> bytes:
        """Act, and return the observation."""
        observation, self._ended = await self._session.step(action)
        return observation


# ---- the servers, and the way to them


@asynccontextmanager
async def far(peer: str, trip: float) -> AsyncIterator[int]:
    """The port by which a peer's server is reached the long way."""
    port, near = free_port(), free_port()
    python = [sys.executable, "-m"]
    commands = (
        [*python, "benchmarks.peers", "serve", peer, "--port", str(near), "--core", "0"],
        [*python, "benchmarks.far_host", "--trip", str(trip * 1e3), "--relay", str(port), str(near)],
    )
    settings = {"ENVMESH_HOST_ADVERTISE": f"127.0.0.1:{port}"}
    processes = [
        await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **settings}, stdout=asyncio.subprocess.DEVNULL
        )
        for command in commands
    ]
    try:
        async with asyncio.timeout(START_SECONDS):
            for listening in (near, port):
                await _until_listening(listening)
        yield port
    finally:
        for process in processes:
            process.kill()
            await process.wait()


async def _until_listening(port: int) -> None:
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.1)


async def relay(port: int, near: int, delay: float) -> None:
    """Pass on every byte after ``delay`` seconds, as many at once as come."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near_reader, near_writer = await asyncio.open_connection("127.0.0.1", near)
        await asyncio.gather(_pass(reader, near_writer, delay), _pass(near_reader, writer, delay))

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    await server.serve_forever()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    later = asyncio.get_running_loop().call_later

    def write(data: bytes) -> None:
        if not writer.transport.is_closing():
            writer.write(data)

    with suppress(OSError):
        while data := await reader.read(1 << 20):
            later(delay, write, data)
    later(delay, writer.close)


if __name__ == "__main__":
    sys.exit(main())
