"""``envmesh guard``: Helm may go on only where no episode is ended by it."""

import asyncio

from tests.integration.broker_parts import Mesh, SimulatedHost, mesh
from tests.integration.command_line import envmesh, envmesh_json


async def judged(broker: Mesh, *arguments: str, status: int):
    """What the guard says, as JSON."""
    at = f"--mesh={broker.started.address}"
    return await asyncio.to_thread(envmesh_json, "guard", *arguments, at, status=status)


async def test_a_pool_with_episodes_stays_and_an_empty_one_may_go():
    async with mesh() as broker:
        (host,) = await broker.hosts(1, slots=8)
        said = await judged(broker, "upgrade", status=0)
        assert said == {"pools": {}, "waiting": {}, "passes": True}
        (lease,) = await broker.acquire(3)
        host.show(lease)
        await broker.until(lambda fleet: fleet.hosts[0].idle == 3)
        assert (await judged(broker, "uninstall", status=0))["passes"], "a lease is no episode"
        host.use(next(iter(host.table)))
        await broker.until(lambda fleet: fleet.hosts[0].in_use == 3)
        said = await judged(broker, "upgrade", status=1)
        assert said == {"pools": {"pool": 3}, "waiting": {}, "passes": False}
        assert (await judged(broker, "upgrade", "--keep=pool", status=0))["passes"]
        assert not (await judged(broker, "uninstall", "--keep=pool", status=1))["passes"]


async def test_episodes_that_wait_to_be_rebuilt_are_in_the_way_of_what_would_no_longer_serve_them():
    async with mesh() as broker:
        await broker.hosts(1, slots=1)
        blocked = broker.ask(3, relocation=True)
        await anext(blocked)
        await broker.until(lambda fleet: fleet.queues and fleet.queues[0].relocating)
        said = await judged(broker, "upgrade", "--keep=pool", "--serve=chess@1", status=1)
        assert said["waiting"].keys() == {"cartpole@1"}
        assert (await judged(broker, "upgrade", "--keep=pool", "--serve=cartpole@1", status=0))["passes"]
        await blocked.aclose()


async def test_while_nobody_can_tell_an_uninstallation_waits_and_an_upgrade_may_mend_it():
    async with mesh() as broker:
        await broker.add(SimulatedHost("h0"))
        address = broker.started.address
    at = f"--mesh={address}"
    uninstall, upgrade = await asyncio.gather(
        *(asyncio.to_thread(envmesh, "guard", what, at) for what in ("uninstall", "upgrade"))
    )
    assert uninstall.returncode != 0
    assert "nobody can tell whether episodes live" in uninstall.stderr
    assert upgrade.returncode == 0
    assert "nothing is checked" in upgrade.stdout
