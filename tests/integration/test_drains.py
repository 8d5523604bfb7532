"""Hosts that drain: nobody is lost, whatever comes between; and how each drain ended is counted once."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

import envmesh
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.child import Child
from envmesh_cli.local_mesh import LocalMesh
from tests.integration.closed_parts import until
from tests.integration.recoverable_parts import SEEDS, busiest, connected, policy

pytestmark = pytest.mark.timeout(120)


async def drain_in_turns(stub: fleet_pb2_grpc.FleetServiceStub) -> None:
    """There is always a Reset on its way when a host begins to drain, where episodes are short."""
    hosts = (await stub.GetFleet(fleet_pb2.GetFleetRequest())).fleet.hosts
    while True:
        for host in hosts:
            await stub.Drain(fleet_pb2.DrainRequest(host_id=host.identity.host_id))
            await asyncio.sleep(0.3)
            await stub.CancelDrain(fleet_pb2.CancelDrainRequest(host_id=host.identity.host_id))
            await asyncio.sleep(0.3)


@asynccontextmanager
async def draining_in_turns() -> AsyncIterator[envmesh.Mesh]:
    """A client of two hosts that do so, with episodes of four steps."""
    async with (
        connected("Saved", "length=4") as (local, mesh),
        grpc.aio.insecure_channel(local.address) as channel,
        asyncio.TaskGroup() as group,
    ):
        draining = drain_in_turns(fleet_pb2_grpc.FleetServiceStub(channel))
        task = group.create_task(draining, name="draining")
        yield mesh
        task.cancel()


async def test_a_reset_that_a_draining_host_refuses_begins_once_elsewhere():
    async with draining_in_turns() as mesh:
        played: list[int | None] = []
        async for trajectory in mesh.rollouts("walk", policy, seeds=range(6_000), concurrency=64):
            assert trajectory.failure is None
            played.append(trajectory.seed)
        assert sorted(played) == list(range(6_000))  # type: ignore[type-var]


async def test_the_task_of_a_policy_whose_reset_is_refused_ends_with_it():
    async def waits(observation: Any) -> Any:
        return policy(observation)

    async with draining_in_turns() as mesh:
        async for trajectory in mesh.rollouts("walk", waits, seeds=range(3_000), concurrency=64):
            assert trajectory.failure is None
        await asyncio.sleep(0)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("envmesh-episode")]


async def test_an_episode_by_hand_whose_reset_is_refused_begins_once_elsewhere_too():
    async with draining_in_turns() as mesh:
        ahead = iter(range(4_000))

        async def play_by_hand() -> None:
            for seed in ahead:
                async with mesh.episode("walk", seed=seed) as episode:
                    for index in range(1, 5):
                        assert (await episode.step(policy(episode.observation))).index == index
                assert episode.rebuild is None, f"episode {seed} is over and still being rebuilt"

        async with asyncio.TaskGroup() as group:
            for number in range(64):
                group.create_task(play_by_hand(), name=f"by-hand-{number}")
        assert not mesh.recovery.rebuilds


@dataclass(frozen=True)
class TwoHosts:
    """Two hosts, by id, with episodes on both; ``busier`` is the process of the first."""

    mesh: envmesh.Mesh
    fleet: fleet_pb2_grpc.FleetServiceStub
    first: str
    second: str
    busier: Child


@asynccontextmanager
async def played_by_hand(name: str, arguments: str) -> AsyncIterator[TwoHosts]:
    """Episodes of six steps, and what is done to their hosts meanwhile: each is played to its end."""
    async with (
        connected(name, f"length=6&{arguments}") as (local, mesh),
        grpc.aio.insecure_channel(local.address) as channel,
        asyncio.timeout(60),
    ):
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(play_by_hand(mesh, seed), name=f"by-hand-{seed}") for seed in SEEDS]
            busier, first = await busiest(local)
            hosts = (await fleet.GetFleet(fleet_pb2.GetFleetRequest())).fleet.hosts
            second = next(host.identity.host_id for host in hosts if host.identity.host_id != first)
            yield TwoHosts(mesh, fleet, first, second, busier)
        assert [task.result() for task in tasks] == [6] * len(SEEDS)
        assert not mesh.recovery.rebuilds


@pytest.mark.parametrize("taken_back", ["the first", "the second"])
async def test_a_drain_taken_back_while_the_way_out_is_shut_loses_nobody(taken_back):
    """Episodes leave the first host, past their last step there, and the second one drains before they arrive."""
    async with played_by_hand("Saved", "pause=0.1") as two:
        rebuilds = two.mesh.recovery.rebuilds
        await two.fleet.Drain(fleet_pb2.DrainRequest(host_id=two.first))
        await until(lambda: any(rebuild.at_boundary for rebuild in rebuilds))
        await two.fleet.Drain(fleet_pb2.DrainRequest(host_id=two.second))
        await until(lambda: any(rebuild.trouble for rebuild in rebuilds))
        host_id = two.first if taken_back == "the first" else two.second
        await two.fleet.CancelDrain(fleet_pb2.CancelDrainRequest(host_id=host_id))


async def test_a_draining_host_that_dies_before_there_is_room_elsewhere_loses_nobody():
    """Who was about to leave it is rebuilt once, when room comes."""
    async with played_by_hand("Replayed", "pause=0.05") as two:
        await two.fleet.Drain(fleet_pb2.DrainRequest(host_id=two.second))
        await two.fleet.Drain(fleet_pb2.DrainRequest(host_id=two.first))
        leaving = two.mesh.recovery.rebuilds
        await until(lambda: sum(each.old_slot.connection.host_id == two.first for each in leaving) > 4)
        two.busier.crash()
        await until(lambda: two.mesh.statistics.hosts_lost)
        await two.fleet.CancelDrain(fleet_pb2.CancelDrainRequest(host_id=two.second))


async def play_by_hand(mesh: envmesh.Mesh, seed: int) -> int:
    """Play one episode by hand. Returns the index of its last step."""
    async with mesh.episode("walk", seed=seed) as episode:
        while not episode.done:
            outcome = await episode.step(policy(episode.observation))
        return outcome.index


async def test_a_host_is_started_anew_once_code_that_never_returns_holds_its_slots():
    """Its other episodes leave it first."""
    settings = {"ENVMESH_HOST_SLOTS": "2", "ENVMESH_HOST_STUCK_PATIENCE": "0.5"}
    async with connected("HeldInThread", "pause=0.05", **settings) as (local, mesh), asyncio.timeout(60):

        async def hold() -> None:
            async with mesh.episode("walk") as episode:
                with pytest.raises(envmesh.EpisodeAborted, match="and holds its thread"):
                    await episode.step(5)

        async with asyncio.TaskGroup() as group:
            group.create_task(hold(), name="held")
            others = [
                group.create_task(play_by_hand(mesh, seed), name=f"by-hand-{seed}") for seed in range(3)
            ]
        assert [task.result() for task in others] == [60] * 3
        await until(lambda: sorted(child.starts for child in local.hosts) == [1, 2])

        async def all_there() -> bool:
            async with grpc.aio.insecure_channel(local.address) as channel:
                stub = fleet_pb2_grpc.FleetServiceStub(channel)
                hosts = (await stub.GetFleet(fleet_pb2.GetFleetRequest())).fleet.hosts
            reports = [host.report for host in hosts if host.report.state == fleet_pb2.HOST_STATE_READY]
            return [report.unleased for report in reports] == [0, 0]

        await until(all_there)


# ---- what the broker counts


async def counted(local: LocalMesh) -> dict[str, float]:
    """What the broker has counted: drains by outcome, the length of all of them as "seconds", episodes by reason."""
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(local.metrics["broker"]).read().decode())
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in ("envmesh_drains_total", "envmesh_interrupted_episodes_total") and sample.value:
                found[sample.labels.get("outcome") or sample.labels["reason"]] = sample.value
            elif sample.name == "envmesh_drain_duration_seconds_sum":
                found["seconds"] = sample.value
    return found


async def hosts_of(stub: Any) -> dict[str, str]:
    """By name, the ids of the hosts that are ready."""
    fleet = (await stub.GetFleet(fleet_pb2.GetFleetRequest(), wait_for_ready=True)).fleet
    return {
        host.identity.name: host.identity.host_id
        for host in fleet.hosts
        if host.state == fleet_pb2.HOST_STATE_READY
    }


async def drain_and_take_back(stub: Any, host_id: str) -> None:
    """What nobody but the broker can order."""

    async def drains() -> bool:
        fleet = (await stub.GetFleet(fleet_pb2.GetFleetRequest())).fleet
        states = {host.identity.host_id: host.state for host in fleet.hosts}
        return states[host_id] in (fleet_pb2.HOST_STATE_DRAINING, fleet_pb2.HOST_STATE_SEALED)

    await stub.Drain(fleet_pb2.DrainRequest(host_id=host_id))
    await until(drains)
    await stub.CancelDrain(fleet_pb2.CancelDrainRequest(host_id=host_id))


async def test_how_each_drain_ended_is_counted_once_whichever_broker_is_there(tmp_path):
    """A host says how its last drain ended as it goes; it is gone before anybody scrapes it."""
    settings = {"ENVMESH_TEST_LEDGER": str(tmp_path / "ledger"), "ENVMESH_HOST_DRAIN_DEADLINE": "1s"}
    async with (
        connected("Paying", "length=1000", **settings) as (local, mesh),
        grpc.aio.insecure_channel(local.address) as channel,
    ):
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        names = await hosts_of(stub)
        busy, idle = local.hosts

        async def says(**expected: float) -> bool:
            found = await counted(local)
            found.pop("seconds", None)
            return found == expected

        async def everybody() -> bool:
            return await hosts_of(stub) == names

        await drain_and_take_back(stub, names[idle.name])
        await until(lambda: says(taken_back=1))

        starts = local.broker.starts
        local.broker.crash()  # the next one hears of that drain too, and that it has been counted
        await until(lambda: local.broker.starts > starts and local.broker.ready.is_set())
        await until(everybody)
        await drain_and_take_back(stub, names[idle.name])
        await until(lambda: says(taken_back=1))

        async with mesh.episode("walk", seed=1) as episode:
            await episode.step(0)
            child, _ = await busiest(local, episodes=1)
            other = idle if child is busy else busy
            other.end()
            await until(lambda: says(taken_back=1, emptied=1))
            child.end()
            await until(lambda: says(taken_back=1, emptied=1, overdue=1, PREEMPTED=1))
        assert (await counted(local))["seconds"] >= 1.0
