"""How many streams a tenant may have to a host: one more is refused by name, others do not notice, and one that has
ended, however that was, is counted no more."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from envmesh.v1 import environment_pb2 as pb
from envmesh_host.engine import Engine
from envmesh_host.rights import HostRights
from envmesh_host.servicer import EnvironmentServicer, add_to_server
from envmesh_host.settings import HostSettings
from envmesh_host.slots import SlotTable
from envmesh_service.credentials import Caller
from envmesh_service.leases import LeaseVerifier, Sealer
from envmesh_service.rpc import Endpoint, make_server
from tests.compliance.messages import Refused
from tests.compliance.stream import STREAM, Stream
from tests.integration.closed_parts import until

MOST = 4


class OfTenant:
    """A channel whose streams are a tenant's."""

    def __init__(self, channel: grpc.aio.Channel, tenant: str):
        self._channel, self._metadata = channel, (("tenant", tenant),)

    def stream_stream(self, method: str) -> Any:
        return functools.partial(self._channel.stream_stream(method), metadata=self._metadata)


def caller_of(context: Any) -> Caller:
    """Whose call it is, as the caller says."""
    return Caller(dict(context.invocation_metadata())["tenant"], fleet=False)


class Port:
    """A host without environments, which takes four streams of a tenant."""

    def __init__(self, channel: grpc.aio.Channel):
        self.red: Any = OfTenant(channel, "red")
        self.blue: Any = OfTenant(channel, "blue")

    async def is_full(self) -> bool:
        """Whether red may have no more streams."""
        async with AsyncExitStack() as stack:
            return not await self.takes_one_more(stack)

    async def takes_one_more(self, stack: AsyncExitStack) -> bool:
        """Whether red may have another stream, and then it has."""
        try:
            await stack.enter_async_context(Stream.opened(self.red))
        except Refused as refused:
            if refused.reason != "QUOTA_EXCEEDED":
                raise
            return False
        return True


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    """The port of a host."""
    engine = Engine([], SlotTable(1), HostRights("host", LeaseVerifier(), Sealer.generate()))
    settings = HostSettings(tenant_streams=MOST)
    servicer = EnvironmentServicer(engine, settings, "host", alone=True, caller_of=caller_of)
    server = make_server(Endpoint(listen="127.0.0.1:0"))
    server.add(add_to_server, servicer, "envmesh.v1.EnvironmentService")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield Port(channel)
    finally:
        await server.stop(0)


async def main_and_large(port: Port, stack: AsyncExitStack) -> Stream:
    """A connection with both of its streams. Returns the main one."""
    main = await stack.enter_async_context(Stream.opened(port.red))
    large = Stream.opened(
        port.red, client_id=main.client_id, connection_id=main.connection_id, role=pb.STREAM_ROLE_LARGE
    )
    await stack.enter_async_context(large)
    return main


async def test_one_stream_too_many_is_refused_and_other_tenants_do_not_notice(port: Port):
    async with AsyncExitStack() as stack:
        for _ in range(MOST // 2):
            await main_and_large(port, stack)
        with pytest.raises(Refused, match=r"'red' has 4 streams .* ENVMESH_HOST_TENANT_STREAMS") as refused:
            await stack.enter_async_context(Stream.opened(port.red))
        assert refused.value.verdict == "RESOURCE_EXHAUSTED QUOTA_EXCEEDED"
        assert refused.value.retry_after
        for _ in range(MOST):
            await stack.enter_async_context(Stream.opened(port.blue))


async def silent(port: Port) -> Any:
    """A stream that never says hello."""
    call = port.red.stream_stream(STREAM)()
    await call.wait_for_connection()
    return call


async def test_a_stream_without_hello_counts_as_well(port: Port):
    calls = [await silent(port) for _ in range(MOST)]
    await until(port.is_full)
    for call in calls:
        call.cancel()
    await all_are_free(port)


async def all_are_free(port: Port) -> None:
    """Red may have all its streams, as soon as the host has noticed what has ended."""
    async with AsyncExitStack() as stack:
        for _ in range(MOST):
            await until(functools.partial(port.takes_one_more, stack))
        assert await port.is_full()


async def hung_up(stream: Stream) -> None:
    await stream.hang_up()


async def done(stream: Stream) -> None:
    await stream.done()
    await stream.over()


async def malformed(stream: Stream) -> None:
    await stream.send_bytes(b"\xff")
    assert (await stream.over()).reason == "MALFORMED"


async def hello_again(stream: Stream) -> None:
    await stream.send_frame(pb.StreamRequest(hello=pb.Hello(protocol_version=1)))
    assert (await stream.over()).reason == "MALFORMED"


@pytest.mark.parametrize("end", [hung_up, done, malformed, hello_again])
async def test_a_stream_that_has_ended_is_counted_no_more(port: Port, end: Any):
    async with AsyncExitStack() as stack:
        streams = [await main_and_large(port, stack) for _ in range(MOST // 2)]
        assert await port.is_full()
        for stream in streams:  # the second of a connection ends with the first
            await end(stream)
        await all_are_free(port)


async def test_a_hello_that_is_refused_takes_no_room(port: Port):
    for _ in range(MOST):
        with pytest.raises(Refused, match="role must be MAIN or LARGE"):
            async with Stream.opened(port.red, role=7):
                pass
    await all_are_free(port)
