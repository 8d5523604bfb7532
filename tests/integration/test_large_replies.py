"""Large replies are acknowledged as they come, whoever plays, so that no host keeps them until the next command."""

import asyncio
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as g

import envmesh
from envmesh import values
from envmesh.episode import Beginning
from envmesh.session import Episode
from envmesh.spaces import to_proto
from tests.integration.closed_parts import until
from tests.integration.told_hosts import ToldHost, ToldMesh, settled

SMALL, LARGE = 65_000, 66_000


async def thinks(observation: Any) -> str:
    await asyncio.Event().wait()
    return "never"


@envmesh.batched
async def thinks_for_many(observations: list[Any]) -> list[str]:
    return [await thinks(observation) for observation in observations]


async def resets(host: ToldHost, count: int) -> list[int]:
    """The handles of so many resets that are sent."""
    handles: list[int] = []

    async def told() -> bool:
        handles.extend(handle for kind, handle in await host.told() if kind == "RESET")
        return len(handles) == count

    await until(told)
    return handles


def came(host: ToldHost, handle: int, observation: Any, info: Any = None) -> None:
    """The outcome of a reset."""
    row = (0, values.encode(observation), 0.0, 0, 7, b"" if info is None else values.encode(info))
    host._delivery.deliver_alone(handle, row)


async def acknowledged(host: ToldHost) -> list[int]:
    """The handles whose replies the host is told that it may drop."""
    await settled()
    return [handle for kind, handle in await host.told() if kind == "ACKNOWLEDGE"]


@pytest.mark.parametrize("what", ["observation", "info"])
async def test_an_episode_by_hand_acknowledges_what_is_large(what: str):
    async with ToldMesh() as mesh, asyncio.TaskGroup() as group:
        host = await mesh.host("x")
        await mesh.room(host)
        episode = Episode(mesh, mesh.walks, None, Beginning(seed=1), 10.0, None)
        beginning = group.create_task(episode.begin(), name="begin")
        (handle,) = await resets(host, 1)
        came(host, handle, bytes(LARGE if what == "observation" else 1), {"log": bytes(LARGE)})
        await beginning
        assert await acknowledged(host) == [handle]


async def test_a_vector_acknowledges_a_large_observation_of_another_dtype_than_its_space():
    async with ToldMesh() as mesh, asyncio.TaskGroup() as group:
        host = await mesh.host("x")
        await mesh.room(host, host)
        mesh.info.observation_space.CopyFrom(to_proto(g.Box(0, 255, (10_000,), np.uint8)))
        async with mesh.vector("walk@1", 2, seed=1) as vector:
            resetting = group.create_task(vector.reset(), name="reset")
            wide, declared = await resets(host, 2)
            came(host, wide, np.zeros(10_000, np.float64))
            came(host, declared, np.zeros(10_000, np.uint8))
            await resetting
            assert await acknowledged(host) == [wide]


async def test_a_vector_acknowledges_what_is_large_for_its_info():
    async with ToldMesh() as mesh, asyncio.TaskGroup() as group:
        host = await mesh.host("x")
        await mesh.room(host, host)
        async with mesh.vector("walk@1", 2, seed=1) as vector:
            resetting = group.create_task(vector.reset(), name="reset")
            told, untold = await resets(host, 2)
            came(host, told, "small", {"log": bytes(LARGE)})
            came(host, untold, "small", {"log": "short"})
            await resetting
            assert await acknowledged(host) == [told]


@pytest.mark.parametrize("policy", [thinks, thinks_for_many])
async def test_rollouts_acknowledge_what_is_large_before_a_policy_has_thought(policy: Any):
    async with ToldMesh() as mesh, asyncio.TaskGroup() as group:
        host = await mesh.host("x")
        await mesh.room(host, host)
        async with mesh.rollouts("walk@1", policy, episodes=2) as rollouts:
            waiting = group.create_task(anext(rollouts), name="rollouts")
            large, small = await resets(host, 2)
            came(host, large, bytes(LARGE))
            came(host, small, bytes(SMALL))
            assert await acknowledged(host) == [large]
            waiting.cancel()
