"""What answers on every port beside the services themselves: health under three names, and reflection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from envmesh.v1 import environment_pb2, placement_pb2
from tests.compliance.hosts import ROOT, HostUnderTest
from tests.compliance.wire import channel_to
from tests.integration.command_line import started

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def ports(host: HostUnderTest) -> Any:
    """A host's address, and a broker's."""
    with started("up", "envmesh_environments.echo:Echo", "--listen", "127.0.0.1:0", cwd=ROOT) as mesh:
        yield {"host": host.address, "broker": mesh.address}


@pytest.fixture(params=["host", "broker"])
async def port(request: pytest.FixtureRequest, ports: dict[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to each kind of port."""
    async with channel_to(ports[request.param]) as channel:
        yield channel


@pytest.mark.parametrize("name", ["live", "ready", "accepting", ""])
async def test_health_has_three_names_and_the_empty_one(port: grpc.aio.Channel, name: str):
    stub: Any = health_pb2_grpc.HealthStub(port)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
    assert reply.status == SERVING


async def test_health_can_be_watched(port: grpc.aio.Channel):
    stub: Any = health_pb2_grpc.HealthStub(port)
    call = stub.Watch(health_pb2.HealthCheckRequest(service="accepting"), timeout=30)
    assert (await call.read()).status == SERVING
    call.cancel()


async def test_an_unknown_health_name_is_not_found(port: grpc.aio.Channel):
    stub: Any = health_pb2_grpc.HealthStub(port)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.Check(health_pb2.HealthCheckRequest(service="happy"), timeout=30)
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def reflected(channel: Any, **request: Any) -> Any:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(timeout=30)
    await call.write(reflection_pb2.ServerReflectionRequest(**request))
    reply = await call.read()
    call.cancel()
    return reply


async def test_reflection_lists_the_services(ports: dict[str, str]):
    health, placement = "grpc.health.v1.Health", "envmesh.v1.PlacementService"
    for kind, service in (("host", "EnvironmentService"), ("broker", "FleetService")):
        async with channel_to(ports[kind]) as channel:
            reply = await reflected(channel, list_services="")
        names = {service.name for service in reply.list_services_response.service}
        assert {health, placement, f"envmesh.v1.{service}"} <= names


@pytest.mark.parametrize(
    ("symbol", "descriptor"),
    [
        ("envmesh.v1.EnvironmentService", environment_pb2.DESCRIPTOR),
        ("envmesh.v1.PlacementService", placement_pb2.DESCRIPTOR),
    ],
)
async def test_reflection_tells_the_very_protocol(ports: dict[str, str], symbol: str, descriptor: Any):
    async with channel_to(ports["host"]) as channel:
        reply = await reflected(channel, file_containing_symbol=symbol)
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in reply.file_descriptor_response.file_descriptor_proto
    ]
    (found,) = [file for file in files if file.name == descriptor.name]
    expected = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(expected)
    assert found == expected
