"""`LocalMesh`: real processes that are started again when they die, and never outlive it."""

import asyncio

import pytest

import envmesh
from envmesh_cli.child import Child, ChildFailed, Line
from envmesh_cli.local_mesh import LocalHost, LocalMesh
from envmesh_cli.pools import PoolPlan
from tests.integration.command_line import descendants, eventually, is_alive

ECHO = "echo=envmesh_environments.echo:Echo"
ACTION = b"x" * 50


async def play(address: str, episodes: int) -> int:
    async with envmesh.connect(address) as mesh:
        done = 0
        async for trajectory in mesh.rollouts(
            "echo", lambda observation: ACTION, episodes=episodes, concurrency=8
        ):
            assert trajectory.failure is None
            done += 1
        return done


async def ready_hosts(address: str) -> int:
    async with envmesh.connect(address) as mesh:
        return sum(pool.ready_hosts for pool in await mesh.pools())


async def started_again(child: Child, address: str) -> None:
    """Wait until a child lives its second life, and the broker knows two hosts."""
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(0.02)
            if child.starts == 2 and child.ready.is_set() and await ready_hosts(address) == 2:
                return


async def test_a_dead_host_and_a_dead_broker_are_started_again():
    lines: list[Line] = []
    async with LocalMesh([ECHO], hosts=2, tell=lines.append) as local:
        assert await play(local.address, 20) == 20
        host, broker, address = local.hosts[0], local.broker, local.address
        first = host.process_id
        host.crash()
        await started_again(host, address)
        assert host.process_id != first
        broker.crash()
        await started_again(broker, address)
        assert local.address == address
        assert await play(address, 20) == 20
    assert [line.source for line in lines if "starts again" in line.text] == ["echo-1", "broker"]


async def fail_within(family: set[int]) -> None:
    async with LocalMesh([ECHO]) as local:
        for child in local.children:
            assert child.process_id is not None
            family |= {child.process_id} | descendants(child.process_id)
        raise ZeroDivisionError


async def test_nothing_outlives_it_when_its_user_fails():
    family: set[int] = set()
    with pytest.raises(ZeroDivisionError):
        await fail_within(family)
    assert len(family) == 3  # a broker, a host and its witness
    assert eventually(lambda: not any(map(is_alive, family)), 15.0)


async def test_a_host_that_cannot_start_is_the_error():
    with pytest.raises(ChildFailed, match="Did you mean 'Echo'"):
        async with LocalMesh(["envmesh_environments.echo:Ecko"]):
            raise AssertionError("it cannot start")


async def test_pools_have_hosts_and_settings_of_their_own():
    plan = PoolPlan(name="small", targets=(ECHO,), settings={"ENVMESH_HOST_SLOTS": "3"})
    async with LocalMesh([plan]) as local, envmesh.connect(local.address) as mesh:
        (pool,) = await mesh.pools()
        assert (pool.name, pool.slots, pool.ready_hosts) == ("small", 3, 1)


async def test_a_lone_host_for_a_while():
    async with LocalHost([ECHO]) as host:
        assert await play(host.address, 10) == 10
