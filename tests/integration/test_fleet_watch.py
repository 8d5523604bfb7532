"""What the autoscaler watches: demand told at once, brief pictures, reservations."""

import asyncio
import datetime as dt

import pytest
from google.protobuf import duration_pb2

import envmesh
from envmesh.errors import Backpressure, NotFound
from envmesh.v1 import fleet_pb2
from tests.integration.broker_parts import PATIENCE, SimulatedHost, mesh

HALF_A_MINUTE = duration_pb2.Duration(seconds=30)
AT_ONCE = duration_pb2.Duration(nanos=50_000_000)


def watch(built, **request):
    return built.fleet.WatchFleet(
        fleet_pb2.WatchFleetRequest(interval=HALF_A_MINUTE, gap=AT_ONCE, brief=True, **request)
    )


async def following(call, holds):
    async with asyncio.timeout(PATIENCE):
        async for answer in call:
            if holds(answer.fleet):
                return answer.fleet
    raise AssertionError("the broker ended the watch")


async def test_whoever_must_wait_is_told_at_once(tmp_path):
    pools = tmp_path / "pools.json"
    pools.write_text('[{"name": "games", "environments": ["cartpole@1"]}]')
    async with mesh(pools_file=str(pools)) as built:
        call = watch(built)
        await following(call, lambda fleet: not fleet.queues)
        waiting = asyncio.create_task(built.acquire(7))  # noqa: TID251 - the task is the test's
        fleet = await following(call, lambda fleet: fleet.queues)
        assert [(row.environment, row.admissible) for row in fleet.queues] == [("cartpole@1", 7)]
        await built.add(SimulatedHost("h0"))
        fleet = await following(call, lambda fleet: fleet.hosts)
        assert (fleet.hosts[0].identity.pool, fleet.hosts[0].identity.slots) == ("pool", 8)
        assert not fleet.hosts[0].identity.environments
        await waiting
        call.cancel()
        call = watch(built)
        await following(call, lambda fleet: fleet.hosts[0].idle == 7)
        call.cancel()


async def test_a_host_that_drains_and_seals_is_told_at_once():
    async with mesh() as built:
        await built.hosts(1)
        call = watch(built)
        await following(call, lambda fleet: True)
        await built.fleet.Drain(fleet_pb2.DrainRequest(host_id="h0"))
        await following(call, lambda fleet: fleet.hosts[0].state == fleet_pb2.HOST_STATE_SEALED)
        call.cancel()


async def test_a_reservation_is_what_its_client_does_not_hold_yet():
    async with mesh() as built, envmesh.connect(built.started.address) as client:
        (host,) = await built.hosts(1)
        reservation = await client.reserve("cartpole", 6, dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
        fleet = await built.until(lambda fleet: fleet.reservations)
        (row,) = fleet.reservations
        assert (row.environment, row.missing) == ("cartpole@1", 6)
        assert 3500 < row.starts_in.seconds <= 3600
        (lease,) = await built.acquire(4, client_id=client.client_id)
        host.show(lease, client.client_id)
        await built.until(lambda fleet: [r.missing for r in fleet.reservations] == [2])
        await reservation.cancel()
        await built.until(lambda fleet: not fleet.reservations)


async def test_a_reservation_that_cannot_be_is_refused():
    async with mesh() as built, envmesh.connect(built.started.address) as client:
        await built.hosts(1)
        with pytest.raises(NotFound):
            await client.reserve("chess", 4)
        with pytest.raises(ValueError, match="time zone"):
            await client.reserve("cartpole", 4, dt.datetime(2030, 1, 1))  # noqa: DTZ001 - what is refused
        with pytest.raises(envmesh.EnvmeshError, match="0 to 100,000"):
            await client.reserve("cartpole", 1_000_000)


async def test_a_reservation_beyond_the_quota_is_refused(tmp_path):
    from envmesh_service.credentials import token_digest

    tokens = tmp_path / "tokens.json"
    tokens.write_text(
        f'{{"tenants": [{{"name": "t", "quota": 5, "tokens": ["{token_digest("secret").hex()}"]}}],'
        f'"fleet": ["{token_digest("fleet").hex()}"]}}'
    )
    fleet = (("authorization", "Bearer fleet"),)
    async with (
        mesh(credentials_file=str(tokens)) as built,
        envmesh.connect(built.started.address, token="secret", plaintext=True) as client,
    ):
        await built.add(SimulatedHost("h0"), fleet)
        await built.until(lambda picture: picture.hosts, fleet)
        with pytest.raises(Backpressure, match="quota"):
            await client.reserve("cartpole", 6)
        await client.reserve("cartpole", 5)
