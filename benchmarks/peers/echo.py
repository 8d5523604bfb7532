"""A line of reference: a bidirectional stream that echoes bytes, without protobuf, environment or anything else.

No step over gRPC in Python is faster; it is what the step of a lone episode is compared with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from benchmarks.job import FIRST_OBSERVATION, Play, observation_of, playing
from benchmarks.peers.__main__ import run

METHOD = "/envmesh.benchmarks.Echo/Stream"


class Handlers(grpc.GenericRpcHandler):
    """The one method there is."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Its handler, for any name."""
        return grpc.stream_stream_rpc_method_handler(_echo)


async def _echo(request_iterator: Any, context: Any) -> None:
    while (action := await context.read()) is not grpc.aio.EOF:
        await context.write(observation_of(action) if action else FIRST_OBSERVATION)


def serve(port: int) -> None:
    """Serve until the process ends."""
    run(_serve(port))


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


class Session:
    """A stream; it knows no episodes, so they never end by themselves."""

    def __init__(self, channel: grpc.aio.Channel):
        self.stream: Any = channel.stream_stream(METHOD)()

    async def reset(self) -> bytes:
        """Send nothing and get the first observation."""
        return (await self.step(b""))[0]

    async def step(self, action: bytes) -> tuple[bytes, bool]:
        """Send an action and get its echo."""
        await self.stream.write(action)
        return await self.stream.read(), False


@asynccontextmanager
async def connect(port: int, concurrency: int) -> AsyncIterator[Play]:
    """A channel for all, a stream for each."""
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        playing([Session(channel) for _ in range(concurrency)]) as play,
    ):
        yield play
