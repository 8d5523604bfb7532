"""Lines of reference: grpc.aio as one would use it, with unary calls, or with one stream an episode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from benchmarks.job import Echo, Play, playing
from benchmarks.peers import reference_pb2 as pb
from benchmarks.peers import reference_pb2_grpc
from benchmarks.peers.__main__ import run


class Servicer(reference_pb2_grpc.ReferenceServicer):
    """An environment a handle for unary calls, one a stream for streams."""

    def __init__(self) -> None:
        self.environments: dict[int, Echo] = {}

    async def Step(self, request: Any, context: Any) -> Any:
        """Reset or step the environment of the handle."""
        if not request.action:
            self.environments[request.handle] = Echo()
        return _outcome(self.environments[request.handle], request.action)

    async def Episode(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Reset or step the environment of this stream."""
        environment = Echo()
        async for request in request_iterator:
            yield _outcome(environment, request.action)


def _outcome(environment: Echo, action: bytes) -> Any:
    if not action:
        return pb.Outcome(observation=environment.reset()[0])
    observation, reward, terminated, _, _ = environment.step(action)
    return pb.Outcome(observation=observation, reward=reward, terminated=terminated)


def serve(port: int) -> None:
    """Serve until the process ends."""
    run(_serve(port))


async def _serve(port: int) -> None:
    # Thousands of calls begin at once, and the default bounds refuse some of them.
    unbounded = [
        ("grpc.server.max_pending_requests", 1 << 20),
        ("grpc.server.max_pending_requests_hard_limit", 1 << 20),
    ]
    server = grpc.aio.server(options=unbounded)
    reference_pb2_grpc.add_ReferenceServicer_to_server(Servicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


class UnarySession:
    """One call a step."""

    def __init__(self, stub: Any, handle: int):
        self.call = stub.Step
        self.handle = handle

    async def reset(self) -> bytes:
        """Begin an episode."""
        return (await self.call(pb.Command(handle=self.handle))).observation

    async def step(self, action: bytes) -> tuple[bytes, bool]:
        """Act once."""
        outcome = await self.call(pb.Command(handle=self.handle, action=action))
        return outcome.observation, outcome.terminated


class StreamSession:
    """One message a step, on a stream of the episode's own."""

    def __init__(self, stub: Any):
        self.stream = stub.Episode()

    async def reset(self) -> bytes:
        """Begin an episode."""
        await self.stream.write(pb.Command())
        return (await self.stream.read()).observation

    async def step(self, action: bytes) -> tuple[bytes, bool]:
        """Act once."""
        await self.stream.write(pb.Command(action=action))
        outcome = await self.stream.read()
        return outcome.observation, outcome.terminated


@asynccontextmanager
async def connect_unary(port: int, concurrency: int) -> AsyncIterator[Play]:
    """A channel for all episodes."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = reference_pb2_grpc.ReferenceStub(channel)
        async with playing([UnarySession(stub, handle) for handle in range(concurrency)]) as play:
            yield play


@asynccontextmanager
async def connect_stream(port: int, concurrency: int) -> AsyncIterator[Play]:
    """A channel for all episodes, a stream for each."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await asyncio.wait_for(channel.channel_ready(), timeout=10)
        stub = reference_pb2_grpc.ReferenceStub(channel)
        async with playing([StreamSession(stub) for _ in range(concurrency)]) as play:
            yield play
