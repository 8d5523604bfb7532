"""The broker on a real port, with hosts that register over the wire."""

import asyncio
import contextlib
import hashlib
import json
import urllib.request
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from envmesh.errors import Refusal, from_rpc_error
from envmesh.v1 import fleet_pb2, placement_pb2
from envmesh_broker.broker import run
from envmesh_broker.settings import BrokerSettings
from envmesh_service.leases import LeaseSigner
from envmesh_service.rpc import BindError
from envmesh_service.settings import SettingsError, load
from tests.integration.broker_parts import PATIENCE, SimulatedHost, mesh, new_client, refusal

WHOLE = placement_pb2.ACQUIRE_MODE_ALL


async def ended(call):
    """The code with which a call ends."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code()


def leased(fleet):
    return sum(row.in_use + row.idle for host in fleet.hosts for row in host.report.leases)


async def test_a_bulk_request_is_granted_at_once_and_every_host_takes_its_lease():
    async with mesh() as broker:
        hosts = {host.identity.host_id: host for host in await broker.hosts(4, slots=8)}
        responses = [response async for response in broker.ask(20)]
        assert [response.grant.remaining for response in responses] == [0]
        leases = responses[0].grant.leases
        assert sum(lease.count for lease in leases) == 20
        for lease in leases:
            assert lease.environment == "cartpole@1"
            assert lease.address == f"{lease.host_id}:7070"
            hosts[lease.host_id].show(lease)
        fleet = await broker.until(lambda fleet: leased(fleet) == 20)
        assert all(host.provisional == 0 for host in fleet.hosts)
        assert fleet.complete
        assert [(tenant.tenant, tenant.leased) for tenant in fleet.tenants] == [("default", 20)]


async def test_one_who_waits_hears_its_place_on_entry_and_again_and_gets_slots_as_they_come_free():
    async with mesh(status_interval=0.2) as broker:
        (host,) = await broker.hosts(1, slots=4)
        (first,) = await broker.acquire(4)
        host.show(first)
        second, third = broker.ask(2), broker.ask(2)
        status = (await anext(second)).queued
        assert (status.position, status.remaining) == (0, 2)
        assert "all 4 slots on 1 host are taken" in status.reason
        assert (await anext(third)).queued.position == 1
        again = (await anext(third)).queued
        assert again.position == 1
        assert again.waited.ToNanoseconds() > 0
        host.end(first.lease_id)
        for waiting in (second, third):
            async for response in waiting:
                if response.HasField("grant"):
                    assert sum(lease.count for lease in response.grant.leases) == 2


async def test_what_is_free_now_is_given_without_waiting():
    async with mesh() as broker:
        await broker.hosts(1, slots=4)
        assert sum(lease.count for lease in await broker.acquire(10, timeout=0)) == 4
        error = await refusal(broker.ask(1, timeout=0))
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY")
        assert error.retry_after
        assert "position 0 of 1 in the queue" in str(error)


async def test_a_deadline_ends_the_wait_and_keeps_what_was_granted():
    async with mesh() as broker:
        await broker.hosts(1, slots=4)
        call = broker.ask(6, timeout=0.3)
        assert sum(lease.count for lease in (await anext(call)).grant.leases) == 4
        error = await refusal(call)
        assert isinstance(error, TimeoutError)
        assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "COMMAND_DEADLINE")
        assert "4 of 6 slots were granted" in str(error)
        assert not (await broker.until(lambda fleet: True)).queues


async def test_a_gang_comes_whole_or_not_at_all_and_an_impossible_one_is_refused_at_once():
    async with mesh() as broker:
        hosts = await broker.hosts(2, slots=4)
        (one,) = await broker.acquire(1)
        {host.identity.host_id: host for host in hosts}[one.host_id].show(one)
        waiting = broker.ask(8, mode=WHOLE)
        assert "waits for 8 slots at once: 7 of 8 are free" in (await anext(waiting)).queued.reason
        error = await refusal(broker.ask(9, mode=WHOLE))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "GANG_IMPOSSIBLE")
        for host in hosts:
            host.end(one.lease_id)
        async for response in waiting:
            if response.HasField("grant"):
                assert sum(lease.count for lease in response.grant.leases) == 8


async def test_a_grant_that_is_not_shown_lapses_and_one_that_came_and_went_is_not_waited_for():
    async with mesh(lease_validity=1.0) as broker:
        (host,) = await broker.hosts(1, slots=4)
        await broker.acquire(4)
        assert sum(lease.count for lease in await broker.acquire(4)) == 4  # after the lapse
        await broker.until(lambda fleet: fleet.hosts[0].provisional == 0)
        (lease,) = await broker.acquire(4)
        host.show(lease)
        host.end(lease.lease_id)  # between two reports
        await broker.until(lambda fleet: fleet.hosts[0].provisional == 0 and not leased(fleet))


async def test_leases_that_were_not_shown_can_be_released():
    async with mesh() as broker:
        (host,) = await broker.hosts(1, slots=4)
        leases = await broker.acquire(4)
        await broker.placement.Release(placement_pb2.ReleaseRequest(tokens=[lease.token for lease in leases]))
        (again,) = await broker.acquire(4)
        host.show(again)
        await broker.until(lambda fleet: leased(fleet) == 4)
        await broker.placement.Release(
            placement_pb2.ReleaseRequest(tokens=[again.token])
        )  # too late, and harmless
        assert leased(await broker.until(lambda fleet: True)) == 4


async def test_a_call_that_is_cancelled_gives_up_its_place():
    async with mesh() as broker:
        await broker.hosts(1, slots=4)
        await broker.acquire(4)
        waiting = broker.ask(4)
        assert (await anext(waiting)).HasField("queued")
        await broker.until(lambda fleet: fleet.queues and fleet.queues[0].admissible == 4)
        await waiting.aclose()
        await broker.until(lambda fleet: not fleet.queues)


async def test_a_broker_can_restart_at_any_time_and_has_the_whole_picture_within_two_seconds(tmp_path):
    from envmesh_service.leases import write_lease_key

    write_lease_key(tmp_path / "lease.pem")
    async with mesh(settle=2.0, lease_keys_file=tmp_path / "lease.pem") as broker:
        hosts = await broker.hosts(5, slots=8)
        leases = await broker.acquire(30)
        by_id = {host.identity.host_id: host for host in hosts}
        for lease in leases:
            by_id[lease.host_id].show(lease)
        await broker.until(lambda fleet: leased(fleet) == 30)
        await broker.stop_broker()
        assert sum(row.idle for host in hosts for row in host.table.values()) == 30  # hosts do not let go
        await broker.start_broker()
        fleet = await broker.until(lambda fleet: len(fleet.hosts) == 5 and leased(fleet) == 30)
        assert fleet.uptime.ToNanoseconds() < 2e9
        fleet = await broker.until(lambda fleet: fleet.complete)
        assert fleet.uptime.ToNanoseconds() < 3e9
        assert (
            sum(lease.count for lease in await broker.acquire(20, timeout=0)) == 10
        )  # nothing was given twice


async def test_a_new_broker_does_not_refuse_what_its_hosts_will_serve_once_they_are_back():
    async with mesh(settle=1.0) as broker:
        waiting = broker.ask(4)
        assert "no host serves cartpole now" in (await anext(waiting)).queued.reason
        await broker.hosts(1, slots=4)
        async for response in waiting:
            assert response.grant.leases[0].count == 4
        error = await refusal(broker.ask(1, environment="chess"))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "ENVIRONMENT_UNKNOWN")
        assert "cartpole@1" in str(error)


async def test_idle_slots_are_recalled_for_those_who_wait():
    async with mesh() as broker:
        (host,) = await broker.hosts(1, slots=4)
        (first,) = await broker.acquire(4, client_id=new_client())
        host.show(first, client_id=b"1" * 16)
        assert sum(lease.count for lease in await broker.acquire(3, client_id=new_client())) == 3
        assert sum(row.idle for row in host.table.values()) == 1


async def test_a_drain_is_told_and_taken_back_and_a_host_that_leaves_is_gone():
    async with mesh() as broker:
        first, second = await broker.hosts(2, slots=4)
        await broker.fleet.Drain(fleet_pb2.DrainRequest(host_id="h0"))
        await broker.until(lambda fleet: fleet.hosts[0].state == fleet_pb2.HOST_STATE_SEALED)
        assert {lease.host_id for lease in await broker.acquire(4)} == {"h1"}
        await broker.fleet.CancelDrain(fleet_pb2.CancelDrainRequest(host_id="h0"))
        await broker.until(lambda fleet: fleet.hosts[0].state == fleet_pb2.HOST_STATE_READY)
        assert {lease.host_id for lease in await broker.acquire(4)} == {"h0"}
        first.drain(True)
        await broker.leave(first)
        fleet = await broker.until(lambda fleet: len(fleet.hosts) == 1)
        assert fleet.complete  # it said goodbye
        await broker.kill(second)
        fleet = await broker.until(lambda fleet: fleet.hosts[0].state == fleet_pb2.HOST_STATE_SILENT)
        assert not fleet.complete
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await broker.fleet.Drain(fleet_pb2.DrainRequest(host_id="nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_host_that_registers_anew_ends_its_older_session():
    async with mesh() as broker:
        (host,) = await broker.hosts(1)
        other = broker.fleet.Register()
        await other.write(fleet_pb2.RegisterRequest(identity=host.identity))
        await other.read()
        host.up.clear()
        async with asyncio.timeout(PATIENCE):
            await host.up.wait()  # it was ended, came back, and so ended the other
            assert await ended(other) is grpc.StatusCode.ABORTED
        assert "registered anew" in await other.details()


async def test_a_bare_name_means_the_newest_version_and_a_full_name_itself():
    async with mesh() as broker:
        for version in ("2", "10", "9"):
            await broker.add(SimulatedHost(f"v{version}", slots=4, environments=[f"cartpole@{version}"]))
        await broker.until(lambda fleet: sum(h.state == fleet_pb2.HOST_STATE_READY for h in fleet.hosts) == 3)
        assert (await broker.acquire(1))[0].environment == "cartpole@10"
        assert (await broker.acquire(1, environment="cartpole@9"))[0].host_id == "v9"
        error = await refusal(broker.ask(1, environment="cartpole@3"))
        assert error.reason == "ENVIRONMENT_UNKNOWN"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, "count must be 1 to 100,000; got 0"),
        ({"count": 100_001}, "count must be 1 to 100,000; got 100001"),
        ({"count": 5, "group_size": 2}, "group_size 2 must divide count 5"),
        ({"count": 1, "priority": 101}, "priority must be -100 to 100; got 101"),
        ({"count": 1, "client_id": b"short"}, "client_id has 16 bytes; got 5"),
        ({"count": 1, "timeout": -1}, "timeout must be 0 s to 24 h; got -1 s"),
        ({"count": 1, "timeout": 86_401}, "timeout must be 0 s to 24 h; got 86401 s"),
        ({"count": 1, "mode": 7}, "mode 7 is not one that is known here"),
        ({"count": 1, "environment": ""}, "environment must be name or name@version"),
    ],
)
async def test_a_request_that_cannot_be_meant_is_refused(fields, message):
    async with mesh() as broker:
        await broker.hosts(1)
        error = await refusal(broker.ask(**fields))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ARGUMENT_INVALID")
        assert message in str(error)
        assert await broker.acquire(1)  # neighbours are unharmed


async def test_a_forged_an_expired_and_a_misdirected_lease_are_refused_by_the_host():
    async with mesh() as broker:
        first, second = await broker.hosts(2)
        (lease,) = await broker.acquire(1)
        host, other = (first, second) if lease.host_id == "h0" else (second, first)
        forged = placement_pb2.Lease()
        forged.CopyFrom(lease)
        signed = placement_pb2.SignedLease.FromString(lease.token)
        claims = placement_pb2.LeaseClaims.FromString(signed.claims)
        claims.count = 8
        signed.claims = claims.SerializeToString()
        forged.token = signed.SerializeToString()
        stranger = placement_pb2.Lease(token=LeaseSigner.generate().sign(claims))
        unread = placement_pb2.Lease(token=b"\xff\xff\xff")
        for token, where, when, message in (
            (forged, host, None, "forged or damaged"),
            (stranger, host, None, "signed by a key that is not known here"),
            (unread, host, None, "cannot be read"),
            (placement_pb2.Lease(), host, None, "there is none"),
            (lease, other, None, "it is for the host"),
            (lease, host, 4e9, "expired"),
        ):
            with pytest.raises(Refusal, match=message) as caught:
                where.show(token, now=when)
            assert (caught.value.code, caught.value.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "LEASE_INVALID",
            )
        host.show(lease)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await broker.placement.Release(placement_pb2.ReleaseRequest(tokens=[forged.token]))
        assert from_rpc_error(refused.value).reason == "LEASE_INVALID"


async def test_a_full_queue_refuses_with_its_length_and_when_to_come_back():
    async with mesh(queue_tenant_requests=2) as broker:
        await broker.hosts(1, slots=1)
        await broker.acquire(1)
        waiting = [broker.ask(1), broker.ask(1)]
        for call in waiting:
            await anext(call)
        error = await refusal(broker.ask(1))
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert error.retry_after == 1.02
        assert "2 requests wait, 2 of tenant default; this would be position 2" in str(error)
        for call in waiting:
            await call.aclose()


def credentials(tmp_path, **tenants):
    path = tmp_path / "credentials.json"
    digest = lambda token: hashlib.sha256(token.encode()).hexdigest()  # noqa: E731
    document = {
        "tenants": [{"name": name, "tokens": [digest(name)], **rest} for name, rest in tenants.items()],
        "fleet": [digest("fleet")],
    }
    path.write_text(json.dumps(document))
    return path


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


async def test_the_tenant_is_what_the_credential_says_and_quota_holds(tmp_path):
    path = credentials(tmp_path, red={"quota": 3}, blue={})
    async with mesh(credentials_file=path) as broker:
        await broker.add(SimulatedHost("h0", slots=8), metadata=bearer("fleet"))
        await broker.until(lambda fleet: fleet.hosts[0].state == fleet_pb2.HOST_STATE_READY, bearer("fleet"))
        for metadata in ((), bearer("unknown"), (("authorization", "Basic cmVk"),)):
            error = await refusal(broker.ask(1, metadata=metadata))
            assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await broker.fleet.GetFleet(fleet_pb2.GetFleetRequest(), metadata=bearer("red"))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        call = broker.ask(5, metadata=bearer("red"))
        grant = (await anext(call)).grant
        assert (grant.leases[0].count, grant.remaining) == (3, 2)
        assert "held back by the quota of tenant red: 3 of 3" in (await anext(call)).queued.reason
        fleet = await broker.until(lambda fleet: fleet.queues, bearer("fleet"))
        assert (fleet.queues[0].admissible, fleet.queues[0].held) == (0, 2)
        assert (await refusal(broker.ask(4, mode=WHOLE, metadata=bearer("red")))).reason == "QUOTA_EXCEEDED"
        error = await refusal(broker.ask(1, timeout=0, metadata=bearer("red")))
        assert error.reason == "QUOTA_EXCEEDED"
        assert error.retry_after
        assert sum(lease.count for lease in await broker.acquire(5, metadata=bearer("blue"))) == 5
        claims = placement_pb2.SignedLease.FromString(grant.leases[0].token).claims
        assert placement_pb2.LeaseClaims.FromString(claims).tenant == "red"
        await call.aclose()


async def test_a_revoked_tenant_is_refused_and_hosts_are_told(tmp_path):
    path = credentials(tmp_path, red={}, blue={})
    async with mesh(credentials_file=path) as broker:
        host = await broker.add(SimulatedHost("h0", slots=8), metadata=bearer("fleet"))
        await broker.until(lambda fleet: fleet.hosts[0].state == fleet_pb2.HOST_STATE_READY, bearer("fleet"))
        assert await broker.acquire(1, metadata=bearer("red"))
        credentials(tmp_path, blue={})
        await broker.until(lambda fleet: host.revoked_tenants == {"red"}, bearer("fleet"))
        assert (await refusal(broker.ask(1, metadata=bearer("red")))).reason == "CREDENTIAL_INVALID"
        assert await broker.acquire(1, metadata=bearer("blue"))


async def test_an_identity_or_report_that_cannot_be_is_refused():
    async with mesh() as broker:
        await broker.hosts(1)
        good = SimulatedHost("h9").identity
        for field, message in (
            ("slots", "slots must be"),
            ("address", "address is missing"),
            ("pool", "pool"),
        ):
            bad = fleet_pb2.HostIdentity()
            bad.CopyFrom(good)
            bad.ClearField(field)  # type: ignore[arg-type]
            call = broker.fleet.Register()
            await call.write(fleet_pb2.RegisterRequest(identity=bad))
            assert await ended(call) is grpc.StatusCode.INVALID_ARGUMENT
            assert message in await call.details()
        call = broker.fleet.Register()
        await call.write(fleet_pb2.RegisterRequest(identity=good))
        await call.read()
        await call.write(
            fleet_pb2.RegisterRequest(report=fleet_pb2.HostReport(state=fleet_pb2.HOST_STATE_SILENT))
        )
        assert await ended(call) is grpc.StatusCode.INVALID_ARGUMENT
        assert await broker.acquire(1)


async def test_pools_are_listed_with_what_they_serve():
    async with mesh() as broker:
        await broker.hosts(2, slots=4)
        await broker.acquire(3)
        (pool,) = (await broker.placement.ListPools(placement_pb2.ListPoolsRequest())).pools
        assert (pool.name, pool.ready_hosts, pool.slots, pool.leased, pool.queued) == ("pool", 2, 8, 3, 0)
        assert [(info.name, info.version) for info in pool.environments] == [("cartpole", "1")]
        assert pool.address in ("h0:7070", "h1:7070")
        assert not pool.environment_slots

        for name in ("bounded-1", "bounded-2"):
            host = SimulatedHost(name, slots=8, environments=["cartpole@1", "mine@1"], pool="few")
            host.identity.environment_slots.add(environment="mine@1", slots=2)
            await broker.add(host)
        few, _ = (await broker.placement.ListPools(placement_pb2.ListPoolsRequest())).pools
        assert [(bound.environment, bound.slots) for bound in few.environment_slots] == [("mine@1", 4)]


async def test_a_declared_pool_without_a_host_is_demand_and_not_an_error(tmp_path):
    path = tmp_path / "pools.json"
    path.write_text(json.dumps([{"name": "chess", "environments": ["chess@2"], "slots": 4, "max_hosts": 2}]))
    async with mesh(pools_file=path) as broker:
        waiting = broker.ask(6, environment="chess")
        assert "no host serves chess@2 now" in (await anext(waiting)).queued.reason
        fleet = await broker.until(lambda fleet: fleet.queues)
        assert (fleet.queues[0].environment, fleet.queues[0].admissible) == ("chess@2", 6)
        assert (await refusal(broker.ask(9, environment="chess", mode=WHOLE))).reason == "GANG_IMPOSSIBLE"
        await broker.add(SimulatedHost("c0", slots=8, environments=["chess@2"]))
        async for response in waiting:
            if response.HasField("grant"):
                assert response.grant.leases[0].count == 6


async def test_health_reflection_and_metrics_are_there():
    async with mesh() as broker:
        await broker.hosts(1)
        await broker.acquire(2)
        health: Any = health_pb2_grpc.HealthStub(broker.channel)
        for name in ("", "live", "ready", "accepting"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(broker.channel)  # type: ignore[arg-type]
        call = reflection.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        services = {service.name for service in (await call.read()).list_services_response.service}
        assert {"envmesh.v1.PlacementService", "envmesh.v1.FleetService", "grpc.health.v1.Health"} <= services
        url = f"http://127.0.0.1:{broker.started.metrics_port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        assert 'envmesh_granted_slots_total{tenant="default"} 2.0' in text
        assert 'envmesh_pool_hosts{pool="pool",state="ready"} 1.0' in text
        assert 'envmesh_pool_slots{pool="pool",state="provisional"} 2.0' in text
        assert 'grpc_server_handled_total{grpc_code="OK",grpc_method="Acquire"' in text


async def test_a_port_in_use_and_wrong_settings_are_clear_errors_before_anything_starts(tmp_path):
    async with mesh() as broker:
        with pytest.raises(BindError, match="the port is in use"):
            await run(load(BrokerSettings, {}, {"listen": broker.started.address}), signals=False)
    environ = {
        "ENVMESH_BROKER_LISTEN": "0.0.0.0:7070",
        "ENVMESH_BROKER_QUEUE_REQUESTS": "many",
        "ENVMESH_BROKER_LIVNESS": "5s",
        "ENVMESH_BROKER_REPORT_INTERVAL": "0",
        "ENVMESH_BROKER_PORT_7070_TCP": "tcp://10.0.0.1:7070",
    }
    with pytest.raises(SettingsError) as caught:
        load(BrokerSettings, environ)
    message = str(caught.value)
    assert "3 mistakes" in message
    assert "ENVMESH_BROKER_QUEUE_REQUESTS: got 'many'; a whole number is right" in message
    assert (
        "ENVMESH_BROKER_LIVNESS: there is no such setting; perhaps ENVMESH_BROKER_LIVENESS is meant"
        in message
    )
    with pytest.raises(SettingsError, match="PLAINTEXT_BEYOND_LOOPBACK=true"):
        load(BrokerSettings, {"ENVMESH_BROKER_LISTEN": "0.0.0.0:7070"})
    (tmp_path / "bad.json").write_text("[{}]")
    with pytest.raises(SettingsError, match=r"pools\[0\].name"):
        await run(load(BrokerSettings, {}, {"pools_file": tmp_path / "bad.json"}), signals=False)


async def test_those_who_wait_are_told_when_the_broker_ends():
    async with mesh() as broker:
        await broker.hosts(1, slots=1)
        await broker.acquire(1)
        waiting = broker.ask(1)
        await anext(waiting)
        ended = asyncio.get_running_loop().create_future()

        async def wait():
            with contextlib.suppress(BaseException):
                ended.set_result(await refusal(waiting))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wait(), name="waiter")
            broker.shutdown.request("test")
            error = await ended
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE")
        await broker.broker
        await broker.start_broker()
