"""Episodes with large observations that change hands: their new owner sees the last one, though it was acknowledged."""

from pathlib import Path

import pytest

import envmesh
from tests.integration.command_line import started

ROOT = Path(__file__).resolve().parents[2]
LARGE = 100_000


@pytest.mark.parametrize("by", ["the same client", "another client"])
async def test_whoever_attaches_sees_the_last_observation(by: str):
    with started(
        "serve", "mirror=tests.environments.contract:Mirror", "--listen", "127.0.0.1:0", cwd=ROOT
    ) as host:
        async with envmesh.connect(host.address) as mesh, envmesh.connect(host.address) as other:
            episode = mesh.episode("mirror")
            await episode.begin()
            outcome = await episode.step({"bytes": LARGE})
            data = await episode.detach()
            async with await (mesh if by == "the same client" else other).attach(data) as taken:
                assert taken.observation == outcome.observation
                assert len(taken.observation) == LARGE
                assert (await taken.step("on")).observation == "on"
