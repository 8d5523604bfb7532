"""The server that every service stands on: what goes on the wire, on a real port."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import logging
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from envmesh.errors import Refusal, from_rpc_error
from envmesh.v1 import placement_pb2, placement_pb2_grpc
from envmesh_service.metrics import Registry
from envmesh_service.rpc import BindError, Endpoint, RpcMetrics, make_server

SERVICE = "envmesh.v1.PlacementService"


class Servicer(placement_pb2_grpc.PlacementServiceServicer):
    """Does what the environment's name in the request says."""

    def __init__(self):
        self.ended = asyncio.Event()

    async def Acquire(self, request, context):
        try:
            yield placement_pb2.AcquireResponse()
            if request.environment == "refuse":
                raise Refusal("full: 3 go before you", reason="QUEUE_FULL", retry_after=1.5)
            if request.environment == "break":
                raise KeyError("secret")
            if request.environment == "long":
                raise Refusal("é" * 20_000, reason="ENVIRONMENT_RAISED", detail="x" * 100_000 + "the end")
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def ListPools(self, request, context):
        return placement_pb2.ListPoolsResponse()


@contextlib.asynccontextmanager
async def serving(**endpoint):
    registry = Registry()
    server = make_server(Endpoint(listen="127.0.0.1:0", **endpoint), metrics=RpcMetrics(registry))
    servicer = Servicer()  # type: ignore[abstract]  # it leaves a method out
    server.add(placement_pb2_grpc.add_PlacementServiceServicer_to_server, servicer, SERVICE)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = placement_pb2_grpc.PlacementServiceStub(channel)
        try:
            yield server, servicer, stub, registry
        finally:
            await server.stop(0)


async def failure(stub, what):
    call = stub.Acquire(placement_pb2.AcquireRequest(environment=what))
    assert await call.read() is not grpc.aio.EOF  # what was said before stands
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value


async def test_a_refusal_is_a_status_with_its_reason_and_when_to_come_back():
    async with serving() as (_, _, stub, _):
        error = await failure(stub, "refuse")
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        refused = from_rpc_error(error)
        assert (refused.reason, refused.retry_after) == ("QUEUE_FULL", 1.5)
        assert str(refused) == "full: 3 go before you [QUEUE_FULL]"


async def test_a_defect_is_internal_tells_nothing_and_is_in_the_log_under_its_incident(caplog):
    async with serving() as (_, _, stub, _):
        with caplog.at_level(logging.ERROR):
            error = from_rpc_error(await failure(stub, "break"))
        assert error.reason == "INTERNAL"
        (record,) = caplog.records
        assert record.incident in str(error)
        assert "secret" not in str(error)
        assert "secret" in caplog.text


async def test_what_is_too_long_for_trailers_is_cut_and_a_traceback_keeps_its_end():
    async with serving() as (_, _, stub, _):
        error = await failure(stub, "long")
        assert error.code() is grpc.StatusCode.UNKNOWN
        (trailer,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
        assert len(trailer) < 6_000
        status = status_pb2.Status.FromString(trailer)
        debug = error_details_pb2.DebugInfo()
        assert [detail.Unpack(debug) for detail in status.details].count(True) == 1
        assert debug.detail.endswith("the end")


async def test_calls_are_counted_by_their_end():
    async with serving() as (_, servicer, stub, registry):
        await stub.ListPools(placement_pb2.ListPoolsRequest())
        await failure(stub, "refuse")
        servicer.ended.clear()
        call = stub.Acquire(placement_pb2.AcquireRequest(environment="wait"))
        await call.read()
        call.cancel()
        async with asyncio.timeout(10):
            await servicer.ended.wait()  # a cancelled call ends here too
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Release(placement_pb2.ReleaseRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        text = registry.text().decode()

        def count(name, method, kind, **more):
            labels = {"grpc_method": method, "grpc_service": SERVICE, "grpc_type": kind, **more}
            inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
            (value,) = [
                line.split()[-1] for line in text.splitlines() if line.startswith(f"{name}{{{inside}}}")
            ]
            return float(value)

        assert count("grpc_server_started_total", "Acquire", "server_stream") == 2
        assert count("grpc_server_handled_total", "ListPools", "unary", grpc_code="OK") == 1
        code = "ResourceExhausted"
        assert count("grpc_server_handled_total", "Acquire", "server_stream", grpc_code=code) == 1
        assert count("grpc_server_handling_seconds_count", "ListPools", "unary") == 1
        assert 'grpc_server_handling_seconds_count{grpc_method="Acquire"' not in text


async def test_health_has_names_of_its_own():
    async with serving() as (server, _, _, _), grpc.aio.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def serves(name):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            return answer.status == health_pb2.HealthCheckResponse.SERVING

        names = ("live", "ready", "accepting", "")
        assert [await serves(name) for name in names] == [True, False, False, False]
        await server.health.set(ready=True, accepting=True)
        assert [await serves(name) for name in names] == [True] * 4
        await server.health.set(accepting=False)
        assert [await serves(name) for name in names] == [True, True, False, True]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await serves("other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_port_in_use_is_said_so():
    async with serving() as (server, _, _, _):
        with pytest.raises(BindError, match=f"cannot listen on {server.address}: the port is in use"):
            make_server(Endpoint(listen=server.address))


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "some.host:0"])
async def test_plain_text_beyond_this_machine_must_be_asked_for_in_as_many_words(listen):
    with pytest.raises(ValueError, match="in plain text"):
        make_server(Endpoint(listen=listen))


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "127.8.8.8:0", "[::1]:0", "unix:/tmp/x"])
def test_what_is_this_machine(listen):
    assert Endpoint(listen=listen).loopback


async def test_plain_text_that_was_asked_for_and_half_an_identity(tmp_path):
    server = make_server(Endpoint(listen="0.0.0.0:0", plaintext_beyond_loopback=True))
    await server.stop(0)
    with pytest.raises(ValueError, match="TLS needs both"):
        make_server(Endpoint(listen="127.0.0.1:0", certificate=tmp_path / "x"))


async def test_tls(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), address]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    (tmp_path / "cert.pem").write_bytes(certificate)
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*pem))
    async with serving(certificate=tmp_path / "cert.pem", private_key=tmp_path / "key.pem") as (
        server,
        _,
        plain,
        _,
    ):
        async with grpc.aio.secure_channel(
            server.address, grpc.ssl_channel_credentials(certificate)
        ) as channel:
            stub: Any = placement_pb2_grpc.PlacementServiceStub(channel)
            await stub.ListPools(placement_pb2.ListPoolsRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await plain.ListPools(placement_pb2.ListPoolsRequest())
