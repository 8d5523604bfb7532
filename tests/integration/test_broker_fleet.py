"""The broker and its hosts: registrations, drains, restarts, and what it shows of them."""

import asyncio
import contextlib
import json
import urllib.request
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from envmesh.v1 import fleet_pb2, placement_pb2
from envmesh_broker.broker import run
from envmesh_broker.settings import BrokerSettings
from envmesh_service.rpc import BindError
from envmesh_service.settings import SettingsError, load
from tests.integration.broker_parts import PATIENCE, WHOLE, SimulatedHost, leased, mesh, refusal
from tests.integration.command_line import envmesh


async def ended(call):
    """The code with which a call ends."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code()


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
        await broker.until(lambda fleet: len(fleet.hosts) == 5 and leased(fleet) == 30)
        await broker.until(lambda fleet: fleet.complete)
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


async def test_what_a_host_has_counted_stays_in_the_picture_while_it_registers_anew():
    async with mesh() as broker:
        host = SimulatedHost("h0", slots=4)
        for _ in range(2):  # the second session is looked at before its first report
            call = broker.fleet.Register()
            await call.write(fleet_pb2.RegisterRequest(identity=host.identity))
            await call.read()
            before = await broker.fleet.GetFleet(fleet_pb2.GetFleetRequest())
            report = fleet_pb2.HostReport(state=fleet_pb2.HOST_STATE_READY, sequence=1)
            report.environments.add(environment="cartpole@1", ended=100_000)
            await call.write(fleet_pb2.RegisterRequest(report=report))
            await call.read()
        call.cancel()
    assert [(status.ended, len(status.report.environments)) for status in before.fleet.hosts] == [
        (100_000, 1)
    ]


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
        ready, most, loads = fleet_pb2.HOST_STATE_READY, 2**32 - 1, fleet_pb2.EnvironmentLoad
        lease = fleet_pb2.LeaseState(lease_id=bytes(16), environment="cartpole@1", in_use=most)
        for report, message in (
            (fleet_pb2.HostReport(state=fleet_pb2.HOST_STATE_SILENT), "cannot say this state"),
            (fleet_pb2.HostReport(state=ready, leases=[lease, lease]), "holds 2,000,000 slots at most"),
            (fleet_pb2.HostReport(state=ready, unleased=most), "holds 2,000,000 slots at most"),
            (fleet_pb2.HostReport(state=ready, environments=[loads(ended=2**64 - 1, failed=1)]), "episodes"),
        ):
            call = broker.fleet.Register()
            await call.write(fleet_pb2.RegisterRequest(identity=good))
            await call.read()
            await call.write(fleet_pb2.RegisterRequest(report=report))
            assert await ended(call) is grpc.StatusCode.INVALID_ARGUMENT
            assert message in await call.details()
            assert await broker.placement.ListPools(placement_pb2.ListPoolsRequest())
            assert await broker.fleet.GetFleet(fleet_pb2.GetFleetRequest())
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
        await broker.until(
            lambda fleet: sum(host.state == fleet_pb2.HOST_STATE_READY for host in fleet.hosts) == 4
        )
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


async def test_top_does_not_take_a_broker_without_hosts_for_a_host():
    async with mesh() as broker:
        at = ("--interval", "0.2", "--mesh", broker.started.address)
        done = await asyncio.to_thread(envmesh, "top", "--once", *at)
        assert "no host now" in done.stdout
        assert "alone" not in done.stdout


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
