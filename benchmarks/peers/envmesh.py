"""envmesh itself, in three forms: a host as ``envmesh serve`` starts it, and a client of the public interface.

Everything is on: metrics, journals, digests, limits. Every episode plays the same script, so that its observations can
be verified as one list.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

import envmesh
from benchmarks.job import ACTIONS, SAMPLED_EVERY, Play, Tally, gather, verify
from envmesh.vector import Vector
from envmesh_environments.echo import ACTION_BYTES, STEPS, observation_of

ENVIRONMENT = "echo"
SLOTS = 8192

SCRIPT = ACTIONS[:STEPS]
FIRST = observation_of(bytes(ACTION_BYTES))
EXPECTED = [FIRST, *map(observation_of, SCRIPT)]
SENT = [b"", *SCRIPT]
ACTION_AFTER = dict(zip(EXPECTED[:STEPS], SCRIPT, strict=True))


def serve(port: int) -> None:
    """Become the host."""
    target = f"{ENVIRONMENT}=envmesh_environments.echo:Echo"
    settings = {"ENVMESH_HOST_SLOTS": str(SLOTS), "ENVMESH_HOST_LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "envmesh_cli", "serve", target, "--listen", f"127.0.0.1:{port}"]
    os.execve(sys.executable, command, {**os.environ, **settings})


@asynccontextmanager
async def connect_rollouts(port: int, concurrency: int) -> AsyncIterator[Play]:
    """``mesh.rollouts`` with a synchronous policy; each trajectory is verified when it comes."""
    async with envmesh.connect(f"127.0.0.1:{port}") as mesh:

        async def play(tally: Tally) -> None:
            def policy(observation: Any) -> bytes:
                tally.steps += 1
                return ACTION_AFTER[observation]

            def timed_policy(observation: Any) -> bytes:
                now = time.perf_counter()
                tally.latencies.append(now - timed[0])
                timed[0] = now
                return policy(observation)

            timed = [time.perf_counter()]
            chosen = timed_policy if concurrency == 1 else policy
            seeds = itertools.repeat(0)
            async with mesh.rollouts(
                ENVIRONMENT, chosen, concurrency=concurrency, seeds=seeds
            ) as trajectories:
                async for trajectory in trajectories:
                    verify(trajectory.failure, None)
                    verify(trajectory.observations, EXPECTED)
                    if tally.stopped:
                        break

        yield play


@asynccontextmanager
async def connect_coroutines(port: int, concurrency: int) -> AsyncIterator[Play]:
    """``mesh.episode`` in a user's own coroutines, a task each."""
    async with envmesh.connect(f"127.0.0.1:{port}") as mesh:

        async def play_episodes(tally: Tally, sampled: bool) -> None:
            while not tally.stopped:
                async with mesh.episode(ENVIRONMENT, seed=0) as episode:
                    verify(episode.observation, FIRST)
                    for action, expected in zip(SCRIPT, EXPECTED[1:], strict=True):
                        begun = time.perf_counter() if sampled else 0.0
                        outcome = await episode.step(action)
                        if sampled:
                            tally.latencies.append(time.perf_counter() - begun)
                        verify(outcome.observation, expected)
                        tally.steps += 1
                        if tally.stopped:
                            break

        async def play(tally: Tally) -> None:
            await gather(play_episodes(tally, number % SAMPLED_EVERY == 0) for number in range(concurrency))

        yield play


@asynccontextmanager
async def connect_vector(port: int, concurrency: int) -> AsyncIterator[Play]:
    """``mesh.vector``: whichever episodes are ready, as lists."""
    async with (
        envmesh.connect(f"127.0.0.1:{port}") as mesh,
        mesh.vector(ENVIRONMENT, concurrency) as vector,
    ):
        await vector.reset()
        episodes = VectorEpisodes(vector, concurrency)
        for ahead in range(STEPS):  # take the episodes apart, by up to a whole one
            moving = np.arange(concurrency)
            await episodes.exchange(moving[moving % STEPS > ahead], Tally(stopped=True))
        yield episodes.play


class VectorEpisodes:
    """Episodes as positions in the script, 0 just after their reset."""

    def __init__(self, vector: Vector, concurrency: int):
        self.vector = vector
        self.positions = np.zeros(concurrency, np.int64)
        self.ended = np.zeros(concurrency, bool)

    async def play(self, tally: Tally) -> None:
        """Step all episodes until the tally is stopped."""
        await self.exchange(np.arange(len(self.positions)), tally)

    async def exchange(self, ids: Any, tally: Tally) -> None:
        """Step these, and go on until the tally is stopped and every outcome is there."""
        vector, positions, ended = self.vector, self.positions, self.ended
        outstanding = len(ids)
        if outstanding:
            await self._send(ids)
        while outstanding:
            batch = await vector.recv()
            ids = batch.ids
            verify(batch.observations, self._expected(batch, ids))
            ended[ids] = batch.terminated
            tally.steps += int(np.count_nonzero(positions[ids]))
            if tally.stopped:
                outstanding -= len(ids)
            else:
                await self._send(ids)

    async def _send(self, ids: Any) -> None:
        # An episode that has ended begins anew, and ignores the action.
        then = np.where(self.ended[ids], 0, self.positions[ids] + 1)
        self.positions[ids] = then
        await self.vector.send([SENT[position] for position in then.tolist()], ids)

    def _expected(self, batch: Any, ids: Any) -> list[bytes]:
        now = self.positions[ids]
        expected = [EXPECTED[position] for position in now.tolist()]
        for row in np.flatnonzero(now == 0).tolist():  # made of the seed, which the vector draws
            expected[row] = observation_of(batch.observations[row][:8].ljust(ACTION_BYTES, b"\0"))
        return expected
