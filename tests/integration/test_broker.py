"""The broker on a real port, with hosts that register over the wire."""

import asyncio
import contextlib
import hashlib
import json

import grpc
import pytest

from envmesh.errors import Refusal, from_rpc_error
from envmesh.v1 import fleet_pb2, placement_pb2
from envmesh_service.leases import LeaseSigner
from tests.integration.broker_parts import WHOLE, SimulatedHost, leased, mesh, new_client, refusal


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


async def test_more_leases_than_can_be_checked_in_passing_are_not_taken_back_in_one_call():
    async with mesh() as broker:
        await broker.hosts(1, slots=4)
        (lease,) = await broker.acquire(4)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await broker.placement.Release(placement_pb2.ReleaseRequest(tokens=[lease.token] * 1_001))
        error = from_rpc_error(refused.value)
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ARGUMENT_INVALID")
        assert "1,001 leases; at most 1,000" in str(error)
        await broker.placement.Release(placement_pb2.ReleaseRequest(tokens=[lease.token] * 1_000))


async def test_a_call_that_is_cancelled_gives_up_its_place():
    async with mesh() as broker:
        await broker.hosts(1, slots=4)
        await broker.acquire(4)
        waiting = broker.ask(4)
        assert (await anext(waiting)).HasField("queued")
        await broker.until(lambda fleet: fleet.queues and fleet.queues[0].admissible == 4)
        await waiting.aclose()
        await broker.until(lambda fleet: not fleet.queues)


async def test_idle_slots_are_recalled_for_those_who_wait():
    async with mesh() as broker:
        (host,) = await broker.hosts(1, slots=4)
        (first,) = await broker.acquire(4, client_id=new_client())
        host.show(first, client_id=b"1" * 16)
        assert sum(lease.count for lease in await broker.acquire(3, client_id=new_client())) == 3
        assert sum(row.idle for row in host.table.values()) == 1


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
