"""The host that is held to the protocol: any, by ``--host ADDRESS``, or one that is started with the test environments
of ``tests/environments/contract.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.compliance.hosts import HostUnderTest, serving, write_key
from tests.compliance.wire import StreamWire, UnaryWire, Wires, channel_to
from tests.integration.command_line import Running


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which host."""
    group = parser.getgroup("compliance", "the host that is held to the protocol")
    group.addoption("--host", metavar="ADDRESS", help="host:port of a running host (default: one is started)")
    group.addoption(
        "--lease-key", metavar="FILE", help="PEM file of the Ed25519 key that signs leases for that host"
    )


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostUnderTest]:
    """The host under test."""
    address = request.config.getoption("--host", default=None)
    if address:
        file = request.config.getoption("--lease-key", default=None)
        key = serialization.load_pem_private_key(Path(file).read_bytes(), None) if file else None
        assert key is None or isinstance(key, Ed25519PrivateKey)
        yield HostUnderTest(address, key)
        return
    path = tmp_path_factory.mktemp("keys") / "lease.pem"
    own = write_key(path)
    with serving(path) as running:
        yield HostUnderTest(running.address, own)


@pytest.fixture(scope="session")
def impatient_host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A host whose windows are as short as can be: what it gives up by itself, it gives up within seconds."""
    if request.config.getoption("--host", default=None):
        pytest.skip("the windows of a running host are not ours to set")
    path = tmp_path_factory.mktemp("keys") / "lease.pem"
    write_key(path)
    windows = {
        "ENVMESH_HOST_LEASE_IDLE": "1",
        "ENVMESH_HOST_REATTACH_WINDOW": "1",
        "ENVMESH_HOST_UNARY_IDLE": "1",
        "ENVMESH_HOST_DRAIN_DEADLINE": "20",
    }
    with serving(path, **windows) as running:
        yield running


@pytest.fixture
def lease_key(host: HostUnderTest) -> Ed25519PrivateKey:
    """The key that signs leases for the host."""
    if host.lease_key is None:
        pytest.skip("leases are signed with a key that was not given (--lease-key)")
    return host.lease_key


@pytest.fixture
async def channel(host: HostUnderTest) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to the host."""
    async with channel_to(host.address) as opened:
        yield opened


@pytest.fixture(params=["unary", "stream"])
async def wires(request: pytest.FixtureRequest, host: HostUnderTest) -> AsyncIterator[Wires]:
    """Opens clients, all of one kind: ``await wires()``."""
    async with AsyncExitStack() as stack:
        yield Wires(host.address, request.param, stack)


@pytest.fixture
async def wire(wires: Wires) -> UnaryWire | StreamWire:
    """A client."""
    return await wires()


@pytest.fixture
async def streams(host: HostUnderTest) -> AsyncIterator[Wires]:
    """Opens clients of the Stream."""
    async with AsyncExitStack() as stack:
        yield Wires(host.address, "stream", stack)


@pytest.fixture
async def stream_wire(streams: Wires) -> StreamWire:
    """A client of the Stream."""
    return await streams.stream()


@pytest.fixture
async def unary_wire(streams: Wires) -> UnaryWire:
    """A client of unary calls."""
    return await streams.unary()
