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


async def test_where_no_journal_leads_there_the_last_observation_goes_along():
    target = "large=tests.environments.large:Large"  # which declares nothing, and so is of class NONE
    with started("serve", target, "--listen", "127.0.0.1:0", cwd=ROOT) as host:
        async with envmesh.connect(host.address) as mesh, envmesh.connect(host.address) as other:
            episode = mesh.episode("large")
            await episode.begin()
            await episode.step(b"x" * LARGE)
            data = await episode.detach()
            async with await other.attach(data) as taken:
                assert taken.observation == b"x" * LARGE * 2
                assert taken.info == {}
                assert (await taken.step(b"y")).observation == b"yy"


async def test_the_last_outcome_of_several_agents_goes_along():
    target = "chess=pettingzoo:classic.connect_four_v3"
    with started("serve", target, "--listen", "127.0.0.1:0", cwd=ROOT) as host:
        async with envmesh.connect(host.address) as mesh, envmesh.connect(host.address) as other:
            episode = mesh.episode("chess", seed=1)
            await episode.begin()
            (agent,) = episode.acting
            outcome = await episode.step({agent: 0})
            due = episode.acting
            async with await other.attach(await episode.detach()) as taken:
                assert taken.acting == due
                assert taken.outcome.reward == outcome.reward
                assert taken.observation.keys() == outcome.observation.keys()
