"""Rollouts that go on from the journal of a process that crashed: groups come once, and as they would have come."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import envmesh
from tests.integration.closed_parts import until
from tests.integration.command_line import Running, started

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def host():
    """A host whose episodes end as they are told to."""
    targets = (
        "talks=tests.environments.for_clients:Talks",
        "treacherous=tests.environments.treacherous:Treacherous",
    )
    with started("serve", *targets, "--listen", "127.0.0.1:0", cwd=ROOT) as running:
        yield running


def in_turn(*members: Callable[[Any], Any]) -> Any:
    """A policy for each episode; the last is that of all others too."""
    left = list(members)

    @envmesh.policies.per_episode
    def policy(*, seed: int, task: str) -> Callable[[Any], Any]:
        return left.pop(0) if len(left) > 1 else left[0]

    return policy


async def hangs(observation: Any) -> Any:
    await asyncio.Event().wait()


async def goes_on(observation: Any) -> Any:
    return "go"


async def raises(observation: Any) -> Any:
    return "raise"


async def crashed(
    host: Running, journal: Path, environment: str, policy: Any, when: Any, **asked: Any
) -> None:
    """Rollouts whose process is no more once ``when`` holds of them, and what has been had of them: its journal stays
    as it was."""
    had: list[Any] = []
    async with envmesh.connect(host.address, journal=journal.with_name("living")) as mesh:
        rollouts = mesh.rollouts(environment, policy, **asked)

        async def fetch() -> None:
            had.append(await anext(rollouts))

        async with asyncio.TaskGroup() as tasks:
            fetching = tasks.create_task(fetch(), name="fetching")
            await until(lambda: when(rollouts, had))
            shutil.copy(journal.with_name("living"), journal)
            fetching.cancel()


async def test_a_group_that_was_full_comes_once_and_its_stragglers_are_not_played(
    host: Running, tmp_path: Path
):
    journal, asked = tmp_path / "journal", {"episodes": 2, "group_size": 2, "spares": 2, "seed": 1}
    async with asyncio.timeout(30):
        straggling = asyncio.Semaphore(0)

        async def goes_on_then(observation: Any) -> Any:
            if isinstance(observation, dict) and "topic" in observation:  # the first
                await straggling.acquire()
            return "go"

        async def straggles(observation: Any) -> Any:
            straggling.release()
            await hangs(observation)

        policy = in_turn(goes_on_then, goes_on_then, straggles)
        await crashed(host, journal, "talks", policy, lambda rollouts, had: had, **asked)
        async with envmesh.connect(host.address, journal=journal) as mesh:
            assert [each.ended is None for each in mesh.unfinished].count(True) == 2, "the stragglers"
            rollouts = mesh.rollouts("talks", in_turn(hangs), **asked)
            groups = [group async for group in rollouts]
            assert rollouts.peak == 0
            assert not mesh.open_connections(), "no slot was asked for"
        async with envmesh.connect(host.address, journal=journal) as mesh:
            assert not mesh.unfinished
    assert [len(group) for group in groups] == [2]


async def test_a_member_that_has_failed_is_in_no_group_that_the_living_can_fill(
    host: Running, tmp_path: Path
):
    journal, asked = tmp_path / "journal", {"episodes": 2, "group_size": 2, "spares": 1, "max_steps": 2}
    async with asyncio.timeout(30):
        policy = in_turn(raises, hangs)

        def one_has_failed(rollouts: Any, had: list[Any]) -> bool:
            begun = len(rollouts.reset_seconds)
            return begun == 3 and len(rollouts.live) == 2

        await crashed(host, journal, "treacherous", policy, one_has_failed, **asked)
        async with envmesh.connect(host.address, journal=journal) as mesh:
            assert sorted(each.ended is None for each in mesh.unfinished) == [False, True, True]
            groups = [group async for group in mesh.rollouts("treacherous", in_turn(goes_on), **asked)]
    assert [[member.failure for member in group] for group in groups] == [[None, None]]


async def test_no_more_are_taken_up_at_once_than_may_be_played(host: Running, tmp_path: Path):
    journal, at_once = tmp_path / "journal", []
    async with asyncio.timeout(30):
        asked = {"episodes": 9, "concurrency": 6, "seed": 1}
        await crashed(
            host, journal, "talks", hangs, lambda rollouts, had: len(rollouts.reset_seconds) == 6, **asked
        )
        async with envmesh.connect(host.address, journal=journal) as mesh:
            assert len(mesh.unfinished) == 6
            rollouts: Any = mesh.rollouts(
                "talks", lambda observation: at_once.append(len(rollouts.live)), **asked | {"concurrency": 2}
            )
            trajectories = [trajectory async for trajectory in rollouts]
            assert rollouts.peak == 2
    assert len(trajectories) == 9
    assert {trajectory.failure for trajectory in trajectories} == {None}
    assert max(at_once) == 2


async def test_a_member_that_fails_leaves_its_place_to_a_spare_that_has_not_begun(host: Running):
    asked = {"episodes": 2, "group_size": 2, "spares": 1, "concurrency": 2, "max_steps": 2}
    async with asyncio.timeout(30), envmesh.connect(host.address) as mesh:
        second = asyncio.Event()

        async def waits(observation: Any) -> Any:
            await second.wait()
            return "go"

        async def begins(observation: Any) -> Any:
            second.set()
            return "go"

        rollouts = mesh.rollouts("treacherous", in_turn(raises, waits, begins), **asked)
        groups = [group async for group in rollouts]
    assert [[member.failure for member in group] for group in groups] == [[None, None]]
