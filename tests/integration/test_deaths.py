"""What deaths and drains do to episodes: kills from outside convict nobody, and what cannot leave is told so."""

import asyncio
import signal

import grpc
import pytest

import envmesh
from envmesh.errors import EpisodeAborted
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.child import Child
from envmesh_cli.local_mesh import LocalMesh
from tests.integration.command_line import started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def busy_host(local: LocalMesh, besides: str = "") -> Child:
    """The host on which the episode lives."""
    async with grpc.aio.insecure_channel(local.address) as channel, asyncio.timeout(60):
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        while True:
            fleet = (await stub.GetFleet(fleet_pb2.GetFleetRequest())).fleet
            for host in fleet.hosts:
                name = host.identity.name
                heard = host.state == fleet_pb2.HOST_STATE_READY and name != besides
                if heard and any(lease.in_use for lease in host.report.leases):
                    return next(child for child in local.hosts if child.name == name)
            await asyncio.sleep(0.05)


async def test_kills_from_outside_convict_nobody():
    async with (
        LocalMesh(["fatal=tests.environments.fatal:Patient"], hosts=2) as local,
        envmesh.connect(local.address) as mesh,
        mesh.episode("fatal", seed=1) as episode,
    ):
        first = await episode.step("go")
        stepping = asyncio.ensure_future(episode.step("slow 6"))  # noqa: TID251 - awaited below
        host = await busy_host(local)
        host.crash()
        (await busy_host(local, besides=host.name)).crash()
        outcome = await stepping
        assert outcome.index == first.index + 1
        assert mesh.statistics.fallen == {}


@pytest.mark.parametrize(("deadline", "signals"), [("0.3", 1), ("600", 2)])
async def test_what_cannot_leave_in_time_is_told_so_before_the_stream_ends(deadline, signals):
    target = "fatal=tests.environments.fatal:Patient"
    with started(
        "serve", target, "--recovery", "none", "--listen", "127.0.0.1:0", ENVMESH_HOST_DRAIN_DEADLINE=deadline
    ) as host:
        async with envmesh.connect(host.address) as mesh, mesh.episode("fatal", seed=1) as episode:
            await episode.step("go")
            for number in range(signals):
                host.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(host.said, "draining" if number == 0 else "ending now")
            await asyncio.to_thread(host.wait)
            with pytest.raises(EpisodeAborted) as ended:
                await episode.step("go")
            assert ended.value.reason == "PREEMPTED"
