"""The table "The same command again" of docs/protocol.md: what makes a trajectory exactly-once.

Every row of it holds for Reset too, which is step 0, on unary calls and on the Stream, and wherever the host runs the
environment's code.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import Episode, Refused, content
from tests.compliance.stream import Row
from tests.compliance.wire import Wire, Wires, acquire, channel_to

ISOLATIONS = ["tally", "tally-thread", "tally-process"]


@pytest.fixture(params=ISOLATIONS)
def tally(request: pytest.FixtureRequest) -> Episode:
    """An episode that has not begun."""
    return Episode(request.param)


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


def told(outcome: pb.Outcome) -> tuple[Any, ...]:
    """What an outcome says in this environment."""
    return (
        outcome.index,
        content(outcome.observation),
        outcome.reward,
        outcome.terminated,
        outcome.truncated,
    )


async def test_nothing_for_this_index_and_the_one_before_is_done_it_acts(wire: Wire, tally: Episode):
    assert told(await wire.reset(tally, seed=7)) == (0, 7, 0.0, False, False)
    assert told(await wire.step(tally, 1, 5)) == (1, 12, 5.0, False, False)
    assert told(await wire.step(tally, 2, -3)) == (2, 9, -3.0, False, False)


async def test_its_reply_and_the_same_the_cached_reply(wire: Wire, tally: Episode):
    first = await wire.reset(tally, seed=7)
    assert await wire.reset(tally, seed=7) == first
    stepped = await wire.step(tally, 1, 5)
    assert await wire.step(tally, 1, 5) == stepped
    assert await wire.step(tally, 1, 5) == stepped
    assert told(await wire.step(tally, 2, 5)) == (2, 17, 5.0, False, False)


@pytest.mark.parametrize(("last_action", "flags"), [(0, (True, False)), (-1, (False, True))])
async def test_the_last_step_again_after_the_end(
    wire: Wire, tally: Episode, last_action: int, flags: tuple[bool, bool]
):
    await wire.reset(tally, seed=7)
    last = await wire.step(tally, 1, last_action)
    assert (last.terminated, last.truncated) == flags
    assert await wire.step(tally, 1, last_action) == last


async def test_its_reply_and_another_action_conflict(wire: Wire, tally: Episode):
    await wire.reset(tally, seed=7)
    for others in ({"seed": 8}, {}, {"seed": 7, "options": {"start": 1}}, {"seed": 7, "task": "hundred"}):
        refused = await refusal(wire.reset(tally, **others))
        assert refused.verdict == "ABORTED STEP_CONFLICT"
    await wire.step(tally, 1, 5)
    refused = await refusal(wire.step(tally, 1, 6))
    assert refused.verdict == "ABORTED STEP_CONFLICT"
    assert "step 1" in refused.message
    assert refused.failure is None, "the episode is unharmed"
    assert told(await wire.step(tally, 2, 5))[:2] == (2, 17)


async def test_another_action_at_the_last_step_after_the_end(wire: Wire, tally: Episode):
    await wire.reset(tally)
    await wire.step(tally, 1, 0)
    assert (await refusal(wire.step(tally, 1, 1))).verdict == "ABORTED STEP_CONFLICT"


@pytest.mark.parametrize("index", [0, 1, 2, 5, 2**32 - 1])
async def test_an_older_index_or_one_too_far_ahead(wire: Wire, tally: Episode, index: int):
    await wire.reset(tally)
    for at in (1, 2, 3):
        await wire.step(tally, at, 5)
    refused = await refusal(wire.step(tally, index, 5))
    assert refused.verdict == "OUT_OF_RANGE STEP_INDEX"
    assert refused.failure is None
    assert told(await wire.step(tally, 4, 5))[:2] == (4, 20)


async def test_reset_again_after_a_step_is_an_older_index(wire: Wire, tally: Episode):
    await wire.reset(tally, seed=7)
    await wire.step(tally, 1, 5)
    assert (await refusal(wire.reset(tally, seed=7))).verdict == "OUT_OF_RANGE STEP_INDEX"
    assert told(await wire.step(tally, 2, 1))[:2] == (2, 13)


async def test_an_ended_episode_and_a_new_step(wire: Wire, tally: Episode):
    await wire.reset(tally)
    last = await wire.step(tally, 1, 0)
    for _ in range(2):
        refused = await refusal(wire.step(tally, 2, 5))
        assert refused.verdict == "FAILED_PRECONDITION EPISODE_ENDED"
        assert refused.failure is None, "it ended by itself"
    assert await wire.step(tally, 1, 0) == last


async def test_nothing_at_all_and_a_step(wire: Wire, tally: Episode):
    refused = await refusal(wire.step(tally, 1, 5))
    assert refused.verdict == "NOT_FOUND EPISODE_UNKNOWN"
    assert "resume" in refused.message


async def test_a_closed_episode_is_nothing_at_all(wire: Wire, tally: Episode):
    await wire.reset(tally)
    await wire.step(tally, 1, 5)
    await wire.close(tally)
    for index in (1, 2):
        assert (await refusal(wire.step(tally, index, 5))).verdict == "NOT_FOUND EPISODE_UNKNOWN"


async def test_close_again_is_closed(wire: Wire, tally: Episode):
    await wire.close(tally)
    await wire.reset(tally)
    await wire.close(tally)
    await wire.close(tally)


async def test_close_is_for_every_state(wire: Wire, tally: Episode):
    await wire.reset(tally)
    await wire.step(tally, 1, 0)
    await wire.close(tally)
    assert (await refusal(wire.step(tally, 1, 0))).verdict == "NOT_FOUND EPISODE_UNKNOWN"


async def test_the_same_reset_may_come_with_another_lease_number_or_timeout(streams: Wires):
    """It is the same beginning that counts: seed, options, task and split."""
    wire, unary = await streams.stream(), await streams.unary()
    episode = Episode("tally")
    began = await wire.reset(episode, seed=7)
    async with channel_to(streams.address) as channel:
        number = await wire.bind((await acquire(channel, "tally")).token)
    request = pb.ResetRequest(episode_id=episode.episode_id, epoch=episode.epoch, lease_number=number, seed=7)
    row = Row(wire.handle(episode), pb.COMMAND_KIND_RESET, payload=request.SerializeToString())
    assert (await wire.stream.ask(row)).outcome() == began
    called = Episode("tally")
    first = await unary.reset(called, seed=7)
    assert await unary.reset(called, seed=7, patience=20) == first
    called.environment = "saved"
    assert (await refusal(unary.reset(called, seed=7))).verdict == "ABORTED STEP_CONFLICT"


# ---- while the command runs


@pytest.fixture
async def gate(wire: Wire) -> Episode:
    """An episode whose step can be held up."""
    episode = Episode("gate")
    await wire.reset(episode)
    return episode


@pytest.fixture
async def keeper(wire: Wire) -> Episode:
    """An episode that opens what holds another up."""
    episode = Episode("gate")
    await wire.reset(episode)
    return episode


async def test_still_running_and_the_same_waits_and_answers_both(wire: Wire, gate: Episode, keeper: Episode):
    name = secrets.token_hex(4)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(wire.step(gate, 1, f"wait {name}"))
        await wire.step(keeper, 1, f"meet {name}")
        second = tasks.create_task(wire.step(gate, 1, f"wait {name}"))
        await wire.step(keeper, 2, f"open {name}")
    assert first.result() == second.result()
    assert content(first.result().observation) == f"wait {name}"
    assert content((await wire.step(gate, 2, "go on")).observation) == "go on"


@pytest.mark.parametrize(
    ("index", "verdict"),
    [
        (1, "ABORTED STEP_CONFLICT"),
        (2, "OUT_OF_RANGE STEP_INDEX"),
        (7, "OUT_OF_RANGE STEP_INDEX"),
    ],
)
async def test_still_running_and_another_action_or_index(
    wire: Wire, gate: Episode, keeper: Episode, index: int, verdict: str
):
    name = secrets.token_hex(4)

    async def tried(action: str, at: int) -> Any:
        try:
            return await wire.step(gate, at, action)
        except Refused as refused:
            return refused

    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(tried(f"wait {name}", 1))
        await wire.step(keeper, 1, f"meet {name}")
        second = tasks.create_task(tried("another", index))
        # On a stream both answers at index 1 look alike to their callers: the first to come is the refusal.
        await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
        await wire.step(keeper, 2, f"open {name}")
    answers = [first.result(), second.result()]
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert [answer.verdict for answer in refused] == [verdict]
    assert refused[0].failure is None
    (outcome,) = [answer for answer in answers if isinstance(answer, pb.Outcome)]
    assert content(outcome.observation) == f"wait {name}"


async def test_a_caller_whose_patience_ended_may_await_the_same_step_again(
    wire: Wire, gate: Episode, keeper: Episode
):
    name = secrets.token_hex(4)
    refused = await refusal(wire.step(gate, 1, f"wait {name}", patience=0.2))
    assert refused.verdict == "DEADLINE_EXCEEDED COMMAND_DEADLINE"
    assert refused.failure is None, "the episode waits at the same step"
    assert (await refusal(wire.step(gate, 1, "another"))).verdict == "ABORTED STEP_CONFLICT"
    async with asyncio.TaskGroup() as tasks:
        again = tasks.create_task(wire.step(gate, 1, f"wait {name}"))
        await wire.step(keeper, 1, f"open {name}")
    assert content(again.result().observation) == f"wait {name}"


async def test_closing_while_a_step_runs_answers_it(wire: Wire, gate: Episode, keeper: Episode):
    name = secrets.token_hex(4)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(refusal(wire.step(gate, 1, f"wait {name}")))
        await wire.step(keeper, 1, f"meet {name}")
        await wire.close(gate)
    assert running.result().verdict == "CANCELLED CANCELLED"
    assert (await refusal(wire.step(gate, 1, f"wait {name}"))).verdict == "NOT_FOUND EPISODE_UNKNOWN"
