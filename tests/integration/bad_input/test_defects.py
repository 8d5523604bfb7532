"""A defect of the client's own, where an event is taken: it ends the episode that it was for, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import envmesh


class Defective:
    """A session in front of an episode, which breaks at every event."""

    def __init__(self, episode: Any):
        self._episode = episode

    @property
    def expected(self) -> int:
        return self._episode.expected

    def on_outcome(self, *_: Any) -> None:
        raise ZeroDivisionError("a defect")

    on_event = on_outcome

    def fell(self, error: Any) -> None:
        self._episode.fell(error)


class Arriving(Defective):
    """A rebuilding in front of an episode, which is over once its event came: the episode takes the rest itself."""

    def on_outcome(self, *_: Any) -> None:
        slot, handle = self._episode.place
        slot.connection.sessions[handle] = self._episode
        raise ZeroDivisionError("a defect")

    on_event = on_outcome

    def fell(self, error: Any) -> None:
        """It is over."""


async def breaks(episode: envmesh.Episode, action: Any, how: type[Defective] = Defective) -> None:
    slot, handle = episode.place
    slot.connection.sessions[handle] = how(episode)
    with pytest.raises(envmesh.EpisodeAborted, match=r"a defect of envmesh .*ZeroDivisionError") as raised:
        await episode.step(action)
    assert raised.value.reason == "INTERNAL"


@pytest.mark.parametrize("action", [5, "no number"], ids=["an outcome", "a failure"])
@pytest.mark.parametrize("neighbours", [1, 20])
async def test_a_defect_where_an_event_is_taken(mesh: envmesh.Mesh, action: Any, neighbours: int):
    async with mesh.episode("tally", seed=7) as episode:
        others = [mesh.episode("tally", seed=number) for number in range(neighbours)]
        for other in others:
            await other.begin()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(breaks(episode, action), name="broken")
            steps = [group.create_task(other.step(1), name="whole") for other in others]
        assert [step.result().observation for step in steps] == [number + 1 for number in range(neighbours)]
        for other in others:
            assert (await other.step(1)).index == 2
            assert not other.resumes
            await other.close()
        with pytest.raises(envmesh.EpisodeAborted):
            await episode.step(5)


@pytest.mark.parametrize("action", [5, "no number"], ids=["an outcome", "a failure"])
async def test_a_defect_right_after_a_rebuilding_ends_the_episode_too(mesh: envmesh.Mesh, action: Any):
    async with asyncio.timeout(10), mesh.episode("tally", seed=7) as episode:
        await breaks(episode, action, Arriving)
