"""A host alone gives out its own slots: the same answers as a broker's, from one queue."""

import secrets
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from envmesh.errors import from_rpc_error
from envmesh.v1 import placement_pb2, placement_pb2_grpc
from envmesh_host.self_placement import MOST_RELEASED
from tests.integration.command_line import started

WHOLE = placement_pb2.ACQUIRE_MODE_ALL


@pytest.fixture(scope="module")
def address():
    with started(
        "serve", "echo=envmesh_environments.echo:Echo", "--slots", "4", "--listen", "127.0.0.1:0"
    ) as running:
        yield running.address


@pytest.fixture
async def stub(address):
    async with grpc.aio.insecure_channel(address) as channel:
        yield placement_pb2_grpc.PlacementServiceStub(channel)


def ask(stub: Any, count: int, timeout: float = 20.0, environment: str = "echo", **fields):
    request = placement_pb2.AcquireRequest(
        environment=environment, count=count, client_id=secrets.token_bytes(16), **fields
    )
    request.timeout.FromNanoseconds(int(timeout * 1e9))
    return stub.Acquire(request)


async def granted(stub, count, **wishes):
    return [lease async for response in ask(stub, count, **wishes) for lease in response.grant.leases]


async def give_back(stub, leases):
    await stub.Release(placement_pb2.ReleaseRequest(tokens=[lease.token for lease in leases]))


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return from_rpc_error(caught.value)


async def test_slots_are_granted_at_once_and_come_back(stub):
    leases = await granted(stub, 4)
    assert [lease.count for lease in leases] == [4]
    assert leases[0].environment.startswith("echo@")
    error = await refusal(ask(stub, 1, timeout=0))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY")
    assert error.retry_after
    assert "position 0 of 1 in the queue" in str(error)
    await give_back(stub, leases)
    leases = await granted(stub, 6, timeout=0)  # only what is free now
    assert [lease.count for lease in leases] == [4]
    await give_back(stub, leases)


async def test_those_who_wait_are_served_in_order_and_the_small_do_not_starve_the_large(stub):
    leases = await granted(stub, 3)
    large = ask(stub, 4, mode=WHOLE)
    assert (await large.read()).queued.position == 0
    small = ask(stub, 1)
    assert (await small.read()).queued.position == 1  # a slot is free, but the gang was first
    moved = ask(stub, 1, relocation=True)
    (lease,) = (await moved.read()).grant.leases  # an episode that lost its host goes before all
    await give_back(stub, [*leases, lease])
    (lease,) = (await large.read()).grant.leases
    assert lease.count == 4
    await give_back(stub, [lease])
    (lease,) = (await small.read()).grant.leases
    await give_back(stub, [lease])


async def test_who_gives_up_lets_the_next_one_in(stub):
    leases = await granted(stub, 3)
    first, second = ask(stub, 4, mode=WHOLE), ask(stub, 1)
    await first.read()
    await second.read()
    first.cancel()
    (lease,) = (await second.read()).grant.leases
    await give_back(stub, [*leases, lease])


async def test_a_deadline_ends_the_wait(stub):
    leases = await granted(stub, 4)
    error = await refusal(ask(stub, 1, timeout=0.1))
    assert isinstance(error, TimeoutError)
    assert "waited 0.1 s for echo@" in str(error)
    await give_back(stub, leases)


@asynccontextmanager
async def beside_bounded():
    """Whoever places on a host that serves a bounded environment too."""
    bounded = "countdown=tests.environments.countdown:Countdown"  # it declares nothing, and so has 16
    with started(
        "serve", "echo=envmesh_environments.echo:Echo", bounded, "--listen", "127.0.0.1:0"
    ) as running:
        async with grpc.aio.insecure_channel(running.address) as channel:
            yield placement_pb2_grpc.PlacementServiceStub(channel)


async def test_who_waits_for_a_bounded_environment_keeps_nobody_from_another():
    async with beside_bounded() as stub:
        mine = await granted(stub, 16, environment="countdown")
        waiting = ask(stub, 2, environment="countdown")
        assert "16 of 16 slots of countdown@1 on this host" in (await waiting.read()).queued.reason
        first, second = ask(stub, 1, environment="countdown"), ask(stub, 4096 - 16, mode=WHOLE)
        assert (await first.read()).queued.position == 1
        (others,) = (await second.read()).grant.leases
        last = ask(stub, 1)
        assert (await last.read()).queued.position == 2
        await give_back(stub, [others])
        assert (await last.read()).HasField("grant"), "it was woken, though two of another environment wait"
        await give_back(stub, mine)
        assert (await waiting.read()).grant.leases[0].count == 2
        assert (await first.read()).grant.leases[0].count == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"count": 0}, "ARGUMENT_INVALID"),
        ({"count": 3, "group_size": 2}, "ARGUMENT_INVALID"),
        ({"count": 1, "priority": 1000}, "ARGUMENT_INVALID"),
        ({"count": 1, "mode": 9}, "ARGUMENT_INVALID"),
        ({"count": 1, "timeout": -1}, "ARGUMENT_INVALID"),
        ({"count": 5, "mode": WHOLE}, "GANG_IMPOSSIBLE"),
        ({"count": 10, "group_size": 5}, "GANG_IMPOSSIBLE"),
        ({"count": 1, "environment": "chess"}, "ENVIRONMENT_UNKNOWN"),
        ({"count": 1, "environment": "echo@77"}, "ENVIRONMENT_UNKNOWN"),
    ],
)
async def test_what_cannot_be_is_refused_at_once(stub, fields, reason):
    assert (await refusal(ask(stub, **fields))).reason == reason
    await give_back(stub, await granted(stub, 1))


async def test_a_forged_lease_cannot_be_released(stub):
    leases = await granted(stub, 1)
    token = bytearray(leases[0].token)
    token[10] ^= 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Release(placement_pb2.ReleaseRequest(tokens=[bytes(token)]))
    assert from_rpc_error(caught.value).reason == "LEASE_INVALID"
    await give_back(stub, leases)


async def test_so_many_leases_are_released_at_once_and_not_more(stub):
    leases = await granted(stub, 1)
    for count, refused in ((MOST_RELEASED + 1, True), (MOST_RELEASED, False)):
        call = stub.Release(placement_pb2.ReleaseRequest(tokens=[leases[0].token] * count))
        if refused:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert from_rpc_error(caught.value).reason == "ARGUMENT_INVALID"
            assert "at most 1,000 in one call" in str(from_rpc_error(caught.value))
        else:
            await call
    leases = await granted(stub, 4)
    await give_back(stub, leases)


async def test_what_could_never_be_had_is_not_reserved():
    async with beside_bounded() as stub:

        async def reserve(environment: str, slots: int) -> str:
            some_id = secrets.token_bytes(16)
            request = placement_pb2.ReserveRequest(
                reservation_id=some_id, client_id=some_id, environment=environment, slots=slots
            )
            try:
                await stub.Reserve(request)
            except grpc.aio.AioRpcError as error:
                return from_rpc_error(error).reason
            return "reserved"

        assert await reserve("countdown", 16) == await reserve("echo@1", 17) == "reserved"
        assert await reserve("countdown", 17) == await reserve("echo", 100_000) == "GANG_IMPOSSIBLE"
        assert await reserve("nobody", 1) == await reserve("countdown@2", 0) == "ENVIRONMENT_UNKNOWN"
