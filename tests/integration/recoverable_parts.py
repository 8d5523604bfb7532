"""A local mesh of recoverable environments, for tests of what becomes of its episodes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

import envmesh
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.child import Child
from envmesh_cli.local_mesh import LocalMesh

ROOT = Path(__file__).resolve().parents[2]
SEEDS = list(range(16))


def policy(observation) -> int:
    return int(observation[1] * 10) % 5


@asynccontextmanager
async def mesh_of(
    name: str, arguments: str = "length=60&pause=0.004", **settings: str
) -> AsyncIterator[LocalMesh]:
    """Two hosts of one of the recoverable environments, saved every ten steps."""
    target = f"walk=tests.environments.recoverable:{name}?{arguments}"
    host_settings = {"PYTHONPATH": str(ROOT), "ENVMESH_HOST_CHECKPOINT_STEPS": "10", **settings}
    async with LocalMesh([target], hosts=2, host_settings=host_settings) as local:
        yield local


@asynccontextmanager
async def connected(
    name: str, arguments: str = "length=60&pause=0.004", **settings: str
) -> AsyncIterator[tuple[LocalMesh, envmesh.Mesh]]:
    """The same, and a client of it."""
    async with mesh_of(name, arguments, **settings) as local, envmesh.connect(local.address) as mesh:
        yield local, mesh


async def busiest(local: LocalMesh, episodes: int = len(SEEDS)) -> tuple[Child, str]:
    """The host with the most episodes once so many have been begun, and its id."""
    async with asyncio.timeout(30), grpc.aio.insecure_channel(local.address) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        load: dict[str, int] = {}
        while sum(load.values()) < episodes:
            await asyncio.sleep(0.02)
            hosts = (await stub.GetFleet(fleet_pb2.GetFleetRequest())).fleet.hosts
            load = {each.identity.name: sum(lease.in_use for lease in each.report.leases) for each in hosts}
    name = max(load, key=lambda each: load[each])
    ids = {host.identity.name: host.identity.host_id for host in hosts}
    return next(child for child in local.hosts if child.name == name), ids[name]


async def play(mesh: envmesh.Mesh, **arguments) -> dict[int | None, envmesh.Trajectory]:
    rollouts = mesh.rollouts("walk", policy, seeds=SEEDS, concurrency=len(SEEDS), **arguments)
    return {trajectory.seed: trajectory async for trajectory in rollouts}


def alike(one: envmesh.Trajectory, other: envmesh.Trajectory) -> bool:
    return (one.digests, one.rewards, one.packed_actions, one.flags) == (
        other.digests, other.rewards, other.packed_actions, other.flags,
    )  # fmt: skip
