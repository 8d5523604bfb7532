"""`top` while the broker goes and comes back."""

import asyncio

import pytest

import envmesh
from envmesh.errors import MeshUnavailable
from envmesh_cli.fleet_watch import watch_views
from envmesh_cli.local_mesh import LocalMesh

ECHO = "echo=envmesh_environments.echo:Echo"


async def test_a_broker_that_goes_is_waited_for_and_seen_again():
    async with LocalMesh([ECHO]) as local, envmesh.connect(local.address, plaintext=True) as mesh:
        views = watch_views(local.address, mesh, interval=0.1)
        async with asyncio.timeout(60):
            first = await anext(views)
            local.broker.crash()
            while not (away := await anext(views)).away:
                pass
            while (again := await anext(views)).away:
                pass
        await views.aclose()
    assert [pool.pool for pool in first.pools] == [pool.pool for pool in away.pools] == ["echo"]
    assert again.uptime_seconds is not None
    assert first.uptime_seconds is not None
    assert again.uptime_seconds < first.uptime_seconds + 60


async def test_a_broker_that_stays_away_is_said_to_be_gone():
    async with asyncio.timeout(60), LocalMesh([ECHO]) as local:
        address = local.address
        async with envmesh.connect(address, plaintext=True) as mesh:
            views = watch_views(address, mesh, interval=0.1, patience=0.0)
            await anext(views)
            await local.drain()
            with pytest.raises(MeshUnavailable, match=f"the broker at {address} is gone"):
                async for _ in views:
                    pass
