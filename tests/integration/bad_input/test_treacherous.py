"""Outcomes made of objects that raise when they are looked at: each ends its own episode, says why, and harms nobody:
neither in the same frame, nor in the same process."""

from __future__ import annotations

import asyncio

import pytest

import envmesh
from tests.environments.treacherous import ERRORS, OUTCOMES
from tests.integration.bad_input.refused import Wrong

RETURNED = Wrong(envmesh.EpisodeAborted, "UNKNOWN", "ENVIRONMENT_RETURNED")
EVERYWHERE = ["treacherous", "treacherous-async", "treacherous-thread", "treacherous-process"]
RAISED = Wrong(envmesh.EpisodeAborted, "UNKNOWN", "ENVIRONMENT_RAISED")


@pytest.mark.parametrize("environment", ["treacherous", "treacherous-process"])
@pytest.mark.parametrize("action", OUTCOMES)
async def test_an_outcome_that_raises_when_it_is_looked_at(mesh: envmesh.Mesh, environment: str, action: str):
    async with mesh.episode(environment) as episode, mesh.episode(environment) as neighbour:
        await RETURNED.holds(episode.step(action))
        assert (await neighbour.step("fine")).observation == "fine"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("environment", EVERYWHERE)
async def test_whatever_a_step_raises(mesh: envmesh.Mesh, environment: str, error: str):
    async with mesh.episode(environment) as episode, mesh.episode(environment) as neighbour:
        told = await RAISED.holds(episode.step(error, timeout=10.0))
        assert ERRORS[error].__name__ in str(told)
        assert (await neighbour.step("fine")).observation == "fine"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("environment", EVERYWHERE)
async def test_whatever_a_reset_raises(mesh: envmesh.Mesh, environment: str, error: str):
    async with mesh.episode(environment) as neighbour:
        async with asyncio.timeout(10.0):
            told = await RAISED.holds(mesh.episode(environment, options={"raising": error}).begin())
        assert ERRORS[error].__name__ in str(told)
        assert (await neighbour.step("fine")).observation == "fine"


@pytest.mark.parametrize("environment", ["treacherous", "treacherous-process"])
async def test_a_grade_that_raises_when_it_is_looked_at(mesh: envmesh.Mesh, environment: str):
    async with mesh.episode(environment) as episode:
        await RETURNED.holds(episode.reward())


@pytest.mark.parametrize("action", [*OUTCOMES, *ERRORS])
async def test_neighbours_in_the_same_frame(mesh: envmesh.Mesh, action: str):
    async with mesh.vector("treacherous", 64) as vector:
        await vector.reset()
        batch = await vector.step([action if number == 17 else "fine" for number in range(64)])
        assert [number for number in range(64) if not batch.valid[number]] == [17]
        assert batch.failures[17].cause == ("ENVIRONMENT_RAISED" if action in ERRORS else RETURNED.reason)
        assert set(batch.observations[:17] + batch.observations[18:]) == {"fine"}


@pytest.mark.parametrize(
    ("environment", "reason", "words"),
    [
        ("tasks-raise", "ENVIRONMENT_RAISED", "tasks() raised Panic: the second cannot be read"),
        ("tasks-raise-process", "ENVIRONMENT_RAISED", "tasks() raised Panic: the second cannot be read"),
        ("tasks-none", "ENVIRONMENT_RETURNED", "tasks() must list envmesh.Task, whose id and split are text"),
        ("tasks-formless", "ENVIRONMENT_RETURNED", "task 'first' has no form on the wire"),
    ],
)
async def test_tasks_that_cannot_be_listed(mesh: envmesh.Mesh, environment: str, reason: str, words: str):
    wrong = Wrong(envmesh.EpisodeAborted, "UNKNOWN", reason, words)
    await wrong.holds(mesh.tasks(environment))
    if environment != "tasks-formless":
        await wrong.holds(mesh.episode(environment, task="second").begin())


async def test_rewards_of_several_agents(mesh: envmesh.Mesh):
    async with mesh.episode("treacherous-pair") as episode, mesh.episode("treacherous-pair") as neighbour:
        await RETURNED.holds(episode.step({"left": "reward", "right": "fine"}))
        assert (await neighbour.step({"left": "fine", "right": "fine"})).observation["left"] == "fine"


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("acting", "nobody knows who is due"),
        ("numbers", "an agent's name is text"),
        ("no text", "surrogates"),
    ],
)
async def test_an_environment_that_cannot_say_who_is_due(mesh: envmesh.Mesh, action: str, words: str):
    async with mesh.episode("treacherous-pair") as episode, mesh.episode("treacherous-pair") as neighbour:
        error = await RETURNED.holds(episode.step({"left": action, "right": "fine"}))
        assert words in str(error)
        assert (await neighbour.step({"left": "fine", "right": "fine"})).observation["left"] == "fine"


async def test_many_of_them_at_once(mesh: envmesh.Mesh):
    async def meet(action: str) -> None:
        async with mesh.episode("treacherous") as episode:
            await RETURNED.holds(episode.step(action))

    async with asyncio.TaskGroup() as group:
        for action in [*OUTCOMES] * 4:
            group.create_task(meet(action))
