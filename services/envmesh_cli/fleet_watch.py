"""The picture of a fleet, again and again, from its broker or from a host alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc
from google.protobuf import duration_pb2

from envmesh import errors
from envmesh.access import channel_options
from envmesh.mesh import Mesh
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.fleet_view import View, view_of_fleet, view_of_pools

__all__ = ["watch_views"]

LEAST_INTERVAL = 0.1


async def watch_views(address: str, mesh: Mesh, *, interval: float) -> AsyncGenerator[View, None]:
    """A view at every interval, in seconds; the first one already has rates.

    Raises:
        EnvmeshError: the mesh does not answer, or not to this credential.
    """
    wait = duration_pb2.Duration()
    wait.FromNanoseconds(int(max(LEAST_INTERVAL, interval) * 1e9))
    async with mesh.access.channel(address, channel_options()) as channel:
        watching = fleet_pb2_grpc.FleetServiceStub(channel).WatchFleet(
            fleet_pb2.WatchFleetRequest(interval=wait), metadata=mesh.metadata
        )
        before: fleet_pb2.Fleet | None = None
        loop = asyncio.get_running_loop()
        then = loop.time()
        try:
            async for response in watching:
                now = loop.time()
                if before is not None:
                    yield view_of_fleet(response.fleet, before, now - then)
                before, then = response.fleet, now
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise errors.from_rpc_error(error) from None
        finally:
            watching.cancel()
    while True:  # a host alone
        yield view_of_pools(await mesh.pools())
        await asyncio.sleep(interval)
