"""Who waits for a command: as many as are bounded, and as long as they said, by the host's clock."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable

import pytest

from envmesh.v1 import environment_pb2 as pb
from envmesh.values import encode
from envmesh_host.asides import MOST_WAITERS
from tests.integration.engine_parts import LEASE, WAITING_SEED, EngineClient, Gated, GatedChancy, host_of

STEP, RESET, RESUME = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_RESUME
REWARD, CHECKPOINT = pb.COMMAND_KIND_REWARD, pb.COMMAND_KIND_CHECKPOINT
OUTCOME, SAVED, FAILURE = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_CHECKPOINT, pb.EVENT_KIND_FAILURE
HOUR = 3_600_000


async def begun(client: EngineClient, *actions: str) -> None:
    client.begin(secrets.token_bytes(16))
    await client.told(OUTCOME)
    for index, action in enumerate(actions, 1):
        client.step(index, action)
        await client.told(OUTCOME)


# ---- how many


async def fill(client: EngineClient, send: Callable[[], None], room: int) -> None:
    """Send a command that waits as often as there is room, and once more."""
    for _ in range(room + 1):
        send()
    (refused,) = await client.told(FAILURE)
    assert refused.refusal().verdict == "RESOURCE_EXHAUSTED NO_CAPACITY"
    assert f"{MOST_WAITERS} times" in refused.refusal().message


async def test_a_step_that_runs():
    async with host_of(Gated) as host:
        client = host.client()
        await begun(client)
        await fill(client, lambda: client.step(1, "wait"), MOST_WAITERS)
        Gated.gate.open()
        events = await client.told(*[OUTCOME] * MOST_WAITERS)
        assert len({event.payload for event in events}) == 1
        client.step(2, "on")
        await client.told(OUTCOME)


async def test_a_checkpoint_that_is_taken_and_the_step_behind_it():
    async with host_of(Gated) as host:
        client = host.client()
        await begun(client, "save slowly")
        await fill(client, lambda: client.send(CHECKPOINT, 7), MOST_WAITERS)
        await fill(client, lambda: client.step(2, "on"), MOST_WAITERS)
        Gated.gate.open()
        await client.told(*[SAVED] * MOST_WAITERS, *[OUTCOME] * MOST_WAITERS)


async def test_an_outcome_that_is_held_back():
    async with host_of(GatedChancy) as host:
        client = host.client()
        client.begin(secrets.token_bytes(16))
        await client.told(SAVED, OUTCOME)
        client.step(1, "save slowly")
        await Gated.gate.reached()
        await fill(client, lambda: client.step(1, "save slowly"), MOST_WAITERS - 1)
        Gated.gate.open()
        await client.told(SAVED, *[OUTCOME] * MOST_WAITERS)


async def test_a_resumption_that_runs():
    async with host_of(Gated) as host:
        client = host.client()
        entry = pb.ResetEntry(environment=f"{next(iter(host.engine.hosted))}", seed=WAITING_SEED)
        journal = pb.Journal(format_version=1, entries=[pb.JournalEntry(reset=entry)])
        episode_id = secrets.token_bytes(16)
        await fill(client, lambda: client.resume(episode_id, 0, journal), MOST_WAITERS)


# ---- how long


@pytest.mark.parametrize(
    "kind",
    [
        pb.COMMAND_KIND_CLOSE, pb.COMMAND_KIND_BIND, pb.COMMAND_KIND_RETURN, pb.COMMAND_KIND_DETACH,
        pb.COMMAND_KIND_ACKNOWLEDGE, STEP, RESET, RESUME, REWARD, CHECKPOINT, 99,
    ],
)  # fmt: skip
async def test_what_is_over_leaves_no_deadline(kind: int):
    async with host_of(Gated) as host:
        client = host.client()
        await begun(client)
        for index in (0, 1, 77):
            client.connection.command(kind, 1, index, b"", HOUR)
            client.connection.command(kind, 2, index, b"\xff", HOUR)
        for episode_id in host.engine.episodes:
            await host.at_rest(episode_id)
        assert not client.connection.deadlines


@pytest.mark.parametrize("index", [0, 7])
async def test_a_reset_is_waited_for_as_long_as_its_caller_said(index: int):
    async with host_of(Gated) as host:
        client = host.client()
        request = pb.ResetRequest(
            episode_id=secrets.token_bytes(16), epoch=1, lease_number=LEASE, seed=WAITING_SEED
        )
        client.connection.command(RESET, 1, index, request.SerializeToString(), HOUR)
        await Gated.gate.reached()
        client.connection.overdue(0.0)
        assert client.connection.deadlines
        client.connection.overdue(math.inf)
        (event,) = await client.told(FAILURE)
        assert (event.index, event.refusal().reason) == (0, "COMMAND_DEADLINE")
        assert not client.connection.deadlines


async def test_a_step_is_waited_for_as_long_as_its_caller_said_and_goes_on():
    async with host_of(Gated) as host:
        client = host.client()
        await begun(client)
        client.connection.command(STEP, 1, 1, encode("wait"), HOUR)
        client.connection.overdue(math.inf)
        (event,) = await client.told(FAILURE)
        assert event.refusal().reason == "COMMAND_DEADLINE"
        Gated.gate.open()
        client.step(1, "wait")
        await client.told(OUTCOME)
