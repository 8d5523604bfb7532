"""``envmesh guard``: Helm may go on only where no episode is ended by it."""

import asyncio
import hashlib
import json

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
        assert said == {"pools": {}, "waiting": {}, "passes": True, "checked": True, "why": ""}
        (lease,) = await broker.acquire(3)
        host.show(lease)
        await broker.until(lambda fleet: fleet.hosts[0].idle == 3)
        assert (await judged(broker, "uninstall", status=0))["passes"], "a lease is no episode"
        host.use(next(iter(host.table)))
        await broker.until(lambda fleet: fleet.hosts[0].in_use == 3)
        said = await judged(broker, "upgrade", status=1)
        assert said == {"pools": {"pool": 3}, "waiting": {}, "passes": False, "checked": True, "why": ""}
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


async def test_a_host_that_is_silent_hides_no_episode_of_the_others():
    async with mesh() as broker:
        busy, silent = await broker.hosts(2, slots=8)
        (lease,) = await broker.acquire(3, avoid_hosts=[silent.identity.host_id])
        busy.show(lease)
        busy.use(next(iter(busy.table)))
        await broker.until(lambda fleet: sum(host.in_use for host in fleet.hosts) == 3)
        await broker.kill(silent)
        removed, kept, uninstalled = await asyncio.gather(
            judged(broker, "upgrade", status=1),
            judged(broker, "upgrade", "--keep=pool", status=0),
            judged(broker, "uninstall", status=1),
        )
    assert removed["pools"] == uninstalled["pools"] == {"pool": 3}
    assert kept == {
        "pools": {},
        "waiting": {},
        "passes": True,
        "checked": False,
        "why": "the broker does not hear every host (h1)",
    }


async def test_while_the_broker_does_not_answer_an_uninstallation_waits_and_an_upgrade_may_mend_it():
    async with mesh() as broker:
        await broker.add(SimulatedHost("h0"))
        address = broker.started.address
    at = f"--mesh={address}"
    uninstall, upgrade, told = await asyncio.gather(
        asyncio.to_thread(envmesh, "guard", "uninstall", at),
        asyncio.to_thread(envmesh, "guard", "upgrade", at),
        asyncio.to_thread(envmesh_json, "guard", "upgrade", at),
    )
    assert uninstall.returncode != 0
    assert "nobody can tell whether episodes live" in uninstall.stderr
    assert upgrade.returncode == 0
    assert "the broker does not answer" in upgrade.stderr
    assert "not everything was checked" in upgrade.stderr
    assert (told["passes"], told["checked"]) == (True, False)
    assert "does not answer" in told["why"]


async def test_a_broker_that_refuses_the_credential_is_not_said_to_be_silent(tmp_path):
    credentials = tmp_path / "credentials.json"
    known = hashlib.sha256(b"the-right-token-of-the-right-tenant").hexdigest()
    credentials.write_text(json.dumps({"tenants": [{"name": "a", "tokens": [known]}]}))
    async with mesh(credentials_file=credentials) as broker:
        stranger = ("--plaintext", "--token=the-wrong-token-of-another-tenant")
        upgrade = await judged(broker, "upgrade", *stranger, status=0)
        uninstall = await judged(broker, "uninstall", *stranger, status=1)
    assert (upgrade["passes"], upgrade["checked"]) == (True, False)
    assert not uninstall["passes"]
    assert "refuses the credential" in upgrade["why"]
    assert upgrade["why"] == uninstall["why"]
