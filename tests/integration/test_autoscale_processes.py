"""A local mesh under the autoscaler: real processes, from none and to none, and no episode ended by it."""

import asyncio
import re
import urllib.request
from contextlib import AsyncExitStack

import grpc
import pytest
from google.protobuf import duration_pb2

import envmesh
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_autoscaler.demand import PoolPolicy
from envmesh_cli.local_mesh import LocalMesh
from envmesh_cli.pools import PoolPlan
from tests.integration.command_line import ENVMESH, envmesh_json, started

ECHO = PoolPlan(
    name="echo",
    targets=("echo=envmesh_environments.echo:Echo",),
    flags=("--slots", "4", "--recovery", "none"),
)
POLICY = PoolPolicy(max_hosts=3, buffer_min=0, buffer_factor=0.0, look_back=2.0, idle_after=1.0)
PATIENCE = 60.0
pytestmark = pytest.mark.timeout(240)  # hosts are started several times over, on a machine that may be busy


async def until(address, holds):
    """Look at each picture of the fleet until something holds."""
    async with asyncio.timeout(PATIENCE), grpc.aio.insecure_channel(address) as channel:
        request = fleet_pb2.WatchFleetRequest(interval=duration_pb2.Duration(nanos=100_000_000), brief=True)
        async for picture in fleet_pb2_grpc.FleetServiceStub(channel).WatchFleet(request):
            if holds(picture.fleet):
                return


def metric(text, name, **labels):
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    found = re.search(rf"^{re.escape(name)}{{{re.escape(inner)}}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


async def test_hosts_come_with_demand_and_go_without_it_and_no_episode_is_ended():
    settings = {"ENVMESH_HOST_LEASE_IDLE": "500ms"}
    async with (
        LocalMesh([ECHO], autoscale=POLICY, host_settings=settings) as local,
        envmesh.connect(local.address) as mesh,
        AsyncExitStack() as kept,
        AsyncExitStack() as passing,
    ):
        assert local.hosts == []
        episodes = [
            await (kept if number % 5 == 0 else passing).enter_async_context(
                mesh.episode("echo", seed=number)
            )
            for number in range(10)
        ]
        assert len(local.hosts) == 3
        await passing.aclose()
        await until(local.address, lambda fleet: len(local.hosts) < 3)
        for episode in episodes[::5]:
            await episode.step(bytes(50))
        assert not any(episode.failure for episode in episodes)
        text = (await asyncio.to_thread(urllib.request.urlopen, local.metrics["autoscaler"])).read().decode()
        assert metric(text, "envmesh_decisions_total", pool="echo", action="raise") >= 3
        assert metric(text, "envmesh_plan_slots", pool="echo", term="leased") is not None
        await kept.aclose()
        await until(local.address, lambda fleet: local.hosts == [])
        kept_tasks = {task.get_name() for task in local._supervising}
        assert kept_tasks == {"child-broker"}, "nothing is kept of hosts that are gone"
        assert mesh.statistics.hosts_lost == 0  # each has said that it goes
        async with mesh.episode("echo", seed=1) as episode:  # and up again
            await episode.step(bytes(50))


def test_up_autoscale_serves_whoever_comes_and_leaves_nothing():
    with started("up", "cartpole=gymnasium:CartPole-v1", "--autoscale", "--max-hosts", "2", "--listen",
                 "127.0.0.1:0") as running:  # fmt: skip
        assert set(running.announced["processes"]) == {"broker"}
        with urllib.request.urlopen(running.announced["metrics"]["autoscaler"], timeout=PATIENCE) as page:
            assert page.status == 200
        told = envmesh_json(
            "run", "cartpole", "--episodes", "20", "--concurrency", "4", "--mesh", running.address
        )
        assert told["episodes"] == 20
        running.interrupt()
        assert running.wait() == 0
        assert running.left_over() == set()
    assert ENVMESH.exists()
