"""The processes of a local mesh: when they are ready, when they have ended, and where they start again."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest

import envmesh
from envmesh import event_loop
from envmesh_cli.local_mesh import LocalHost, LocalMesh

ACCOMPANIED = "accompanied=tests.environments.accompanied:Accompanied"
ECHO = "echo=envmesh_environments.echo:Echo"
PATIENCE = 60.0


@pytest.fixture
def companions() -> Iterator[set[int]]:
    """Processes that environments started; they are ended with the test."""
    started: set[int] = set()
    yield started
    for process in started:
        os.kill(process, signal.SIGKILL)


async def play_through_a_death(companions: set[int]) -> None:
    async with asyncio.timeout(PATIENCE), LocalHost([ACCOMPANIED]) as host:
        address = host.address
        async with (
            envmesh.connect(address, plaintext=True) as mesh,
            mesh.episode("accompanied", seed=1) as episode,
        ):
            companions.add(episode.info["companion"])
            host.children[0].crash()
            outcome = await episode.step("on")
            companions.add(outcome.info["companion"])
            assert (outcome.observation, host.address, host.children[0].starts) == (2, address, 2)
    assert len(companions) == 2


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, event_loop.new_event_loop])
def test_a_host_whose_output_is_held_open_is_started_again_where_it_was_and_ends(
    loop: Callable[[], asyncio.AbstractEventLoop], companions: set[int]
):
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play_through_a_death(companions))


async def test_a_mesh_is_ready_whatever_its_processes_log():
    quiet = {"ENVMESH_HOST_LOG_LEVEL": "error"}, {"ENVMESH_BROKER_LOG_LEVEL": "warning"}
    async with (
        asyncio.timeout(PATIENCE),
        LocalMesh([ECHO], host_settings=quiet[0], broker_settings=quiet[1]) as local,
    ):
        assert all(child.ready.is_set() for child in local.children)
