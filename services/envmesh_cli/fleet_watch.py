"""The picture of a fleet, again and again, from its broker or from a host alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import grpc
from google.protobuf import duration_pb2

from envmesh import errors
from envmesh.access import channel_options
from envmesh.mesh import Mesh
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.fleet_view import View, view_of_fleet, view_of_pools

__all__ = ["watch_views"]

LEAST_INTERVAL = 0.1
PATIENCE = 30.0
RETRY_SECONDS = 0.5
_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


async def watch_views(
    address: str, mesh: Mesh, *, interval: float, patience: float = PATIENCE
) -> AsyncGenerator[View, None]:
    """A view at every interval, in seconds; the first one already has rates. Where a broker that answered no longer
    does, it is waited for, with its last view again and again, at most ``patience`` seconds.

    Raises:
        MeshUnavailable: the mesh does not answer, or no longer. EnvmeshError: it does not answer to this credential.
    """
    wait = duration_pb2.Duration()
    wait.FromNanoseconds(int(max(LEAST_INTERVAL, interval) * 1e9))
    request = fleet_pb2.WatchFleetRequest(interval=wait)
    loop = asyncio.get_running_loop()
    view: View | None = None
    heard_at = loop.time()
    async with mesh.access.channel(address, channel_options()) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        while True:
            try:
                async with aclosing(_broker_views(stub.WatchFleet(request, metadata=mesh.metadata))) as views:
                    async for view in views:
                        heard_at = loop.time()
                        yield view
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    break
                if view is None or error.code() in _REFUSALS:
                    raise errors.from_rpc_error(error) from None
            if view is None or loop.time() - heard_at > patience:
                raise errors.MeshUnavailable(f"the broker at {address} is gone")
            yield replace(view, away=True)
            await asyncio.sleep(max(RETRY_SECONDS, interval))
    while True:  # a host alone
        yield view_of_pools(await mesh.pools())
        await asyncio.sleep(interval)


async def _broker_views(
    watching: grpc.aio.UnaryStreamCall[fleet_pb2.WatchFleetRequest, fleet_pb2.WatchFleetResponse],
) -> AsyncGenerator[View, None]:
    """A view for each picture but the first, which has nothing to tell rates by."""
    before: fleet_pb2.Fleet | None = None
    loop = asyncio.get_running_loop()
    then = loop.time()
    try:
        async for response in watching:
            now = loop.time()
            if before is not None:
                yield view_of_fleet(response.fleet, before, now - then)
            before, then = response.fleet, now
    finally:
        watching.cancel()
