"""Requests of millions of parts are refused before anything is made of them, and before anybody asks for a lease."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from envmesh.v1 import environment_pb2 as pb
from envmesh_host.engine import Engine
from envmesh_host.parsing import MOST_FIELDS
from envmesh_host.rights import HostRights
from envmesh_host.servicer import EnvironmentServicer, add_to_server
from envmesh_host.settings import HostSettings
from envmesh_host.slots import SlotTable
from envmesh_service.leases import LeaseVerifier, Sealer
from envmesh_service.rpc import Endpoint, make_server
from tests.compliance.messages import Refused, refused_by
from tests.compliance.stream import Row, Stream
from tests.unit.host.test_parsing import EMPTY, LIST, field, reset, resume

FLOOD = field(LIST, EMPTY * MOST_FIELDS)
STEP = field(pb.StepRequest.DESCRIPTOR.fields_by_name["action"].number, FLOOD)
WORDS = "more than 1,000,000 items"


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """To a host without environments."""
    engine = Engine([], SlotTable(1), HostRights("host", LeaseVerifier(), Sealer.generate()))
    servicer = EnvironmentServicer(engine, HostSettings(), "host", alone=True)
    server = make_server(Endpoint(listen="127.0.0.1:0"))
    server.add(add_to_server, servicer, "envmesh.v1.EnvironmentService")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield channel
    finally:
        await server.stop(0)


@pytest.mark.parametrize(
    ("method", "request_"),
    [("Reset", reset(FLOOD)), ("Step", STEP), ("Resume", resume(FLOOD))],
    ids=["reset", "step", "resume"],
)
async def test_a_call_of_too_many_parts_is_malformed(channel: grpc.aio.Channel, method: str, request_: bytes):
    call: Any = channel.unary_unary(f"/envmesh.v1.EnvironmentService/{method}")
    with pytest.raises(grpc.aio.AioRpcError, match=WORDS) as failed:
        await call(request_)
    assert refused_by(failed.value).verdict == "INVALID_ARGUMENT MALFORMED"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(pb.COMMAND_KIND_RESET, reset(FLOOD)), (pb.COMMAND_KIND_RESUME, resume(FLOOD))],
    ids=["reset", "resume"],
)
async def test_a_command_of_too_many_parts_is_malformed(channel: grpc.aio.Channel, kind: int, payload: bytes):
    async with Stream.opened(channel) as stream:
        with pytest.raises(Refused, match=WORDS) as refused:
            await stream.ask(Row(handle=1, kind=kind, payload=payload))
        assert refused.value.verdict == "INVALID_ARGUMENT MALFORMED"
