"""An environment that observes what is never the same twice, and says with its own digest what must be equal."""

import pytest

import envmesh
from tests.integration.command_line import started
from tests.integration.conftest import ROOT

TARGET = "looks=tests.environments.particular:SaysWhatMustBeEqual"


def serving(*flags: str):
    return started("serve", TARGET, *flags, "--listen", "127.0.0.1:0", cwd=ROOT)


@pytest.mark.parametrize("isolation", ["inline", "thread", "process"])
async def test_what_the_digest_says_is_equal_is_no_divergence(isolation: str):
    with serving("--isolation", isolation, "--recovery", "replay") as host:
        async with envmesh.connect(host.address) as mesh, mesh.episode("looks") as episode:
            for _ in range(3):
                await episode.step(2)
            (branch,) = await episode.fork(1)
            assert branch.observation[0] == episode.observation[0] == 6
            assert branch.observation[1] != episode.observation[1], "it was played again"
            async with mesh.vector("looks", 3) as vector:
                await vector.reset()
                assert [row[0] for row in (await vector.step([1, 2, 3])).observations] == [1, 2, 3]
            with pytest.raises(envmesh.EpisodeAborted, match="unlucky") as failed:
                await episode.step(1)
            assert failed.value.failure.cause == "ENVIRONMENT_RAISED"


async def test_with_a_digest_of_its_own_an_environment_is_not_saved_at_every_step():
    with serving("--isolation", "inline") as host:
        async with envmesh.connect(host.address) as mesh, mesh.episode("looks") as episode:
            for _ in range(3):
                await episode.step(2)
            assert (episode.journal.base, episode.journal.steps) == (0, 3)
