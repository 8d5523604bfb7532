"""What a death does to episodes: the one that kills what serves it ends as POISON, and nobody else notices."""

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

SEEDS = range(20, 32)


async def neighbours(mesh: envmesh.Mesh) -> dict[int, list[int]]:
    """The digests of episodes that harm nobody."""
    found = {}
    async for trajectory in mesh.rollouts("fatal", lambda seen: "slow 0.01", seeds=SEEDS, concurrency=12):
        assert trajectory.failure is None, trajectory.failure
        found[trajectory.seed] = list(trajectory.digests)
    return found


async def poisonous(mesh: envmesh.Mesh, deed: str) -> str:
    """Play an episode whose third step does something fatal; the reason for which it ends."""
    async with mesh.episode("fatal", seed=1) as episode:
        for action in ("go", "go"):
            await episode.step(action)
        with pytest.raises(EpisodeAborted) as ended:
            await episode.step(deed)
    return ended.value.reason


@pytest.mark.parametrize(
    ("target", "deed"),
    [("Fatal", "segfault"), ("FatalInWorker", "segfault")],
)
async def test_an_episode_that_kills_what_serves_it_ends_as_poison_and_alone(target, deed):
    async with (
        LocalMesh([f"fatal=tests.environments.fatal:{target}"], hosts=2) as local,
        envmesh.connect(local.address) as mesh,
    ):
        undisturbed = await neighbours(mesh)
        beside = asyncio.ensure_future(neighbours(mesh))  # noqa: TID251 - awaited below
        assert await poisonous(mesh, deed) == "POISON"
        assert await beside == undisturbed
        assert await neighbours(mesh) == undisturbed


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
