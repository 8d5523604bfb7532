"""Several versions of one environment: what a bare name means, and that nothing is taken for another version's."""

import pytest

import envmesh
from envmesh_broker.names import resolve
from tests.integration.command_line import started
from tests.integration.conftest import ROOT
from tests.integration.test_closed_host import free_port

ROWS = "tests.environments.versioned:Rows"


def serving(*widths: tuple[str, int], address: str = "127.0.0.1:0"):
    """A host of these versions of ``rows``, each with its width."""
    targets = [f"rows@{version}={ROWS}?width={width}" for version, width in widths]
    return started("serve", *targets, "--recovery", "none", "--listen", address, cwd=ROOT)


async def test_a_bare_name_means_the_same_version_to_everybody():
    widths = {"9": 9, "10": 10, "10-rc": 3}
    with serving(*widths.items()) as host:
        async with envmesh.connect(host.address) as mesh:
            keys = [spec.key for spec in await mesh.environments()]
            assert keys == ["rows@9", "rows@10-rc", "rows@10"]
            assert (await mesh.describe("rows")).key == resolve("rows", keys) == "rows@10"
            async with mesh.episode("rows") as episode:
                assert episode.spec.key == "rows@10"
            async with mesh.vector("rows", 2) as vector:
                assert vector.spec.key == "rows@10"
                assert (await vector.reset()).observations.shape == (2, 10)


async def test_a_vector_goes_on_with_its_version_or_says_that_there_is_none_any_more():
    address = f"127.0.0.1:{free_port()}"
    with serving(("1", 3), address=address) as first:
        async with envmesh.connect(address) as mesh, mesh.vector("rows", 4) as vector:
            assert (await vector.reset()).observations.shape == (4, 3)
            first.process.kill()
            with serving(("1", 3), ("2", 3), address=address) as second:
                assert set((await vector.step([1] * 4)).observations.flat) == {0.0}, "fallen, each of them"
                for count in range(3):
                    batch = await vector.step([1] * 4)
                    assert batch.valid.all()
                    assert set(batch.observations.flat) == {count}
                async with mesh.episode("rows") as episode:
                    assert episode.spec.key == "rows@2"
                assert {slot.binding.spec.key for slot in vector._slots} == {"rows@1"}
                second.process.kill()
            with serving(("2", 3), address=address):
                assert not (await vector.step([1] * 4)).valid.any()
                with pytest.raises(envmesh.NotFound, match="rows@1"):
                    await vector.step([1] * 4)
