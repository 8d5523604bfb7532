"""Detach, attach, and what becomes of episodes whose client is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from envmesh.v1 import environment_pb2 as pb
from tests.compliance.messages import Episode, Refused, content
from tests.compliance.stream import Row, Stream
from tests.compliance.wire import StreamWire, UnaryWire, Wires, channel_to
from tests.integration.command_line import Running

UNKNOWN = "NOT_FOUND EPISODE_UNKNOWN"
NOT_YOURS = "PERMISSION_DENIED NOT_YOURS"


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


@pytest.fixture
async def detached(streams: Wires) -> tuple[StreamWire, Episode, bytes]:
    """A client, an episode at step 1 that it let go, and the attach token."""
    wire = await streams.stream()
    episode = Episode("tally")
    await wire.reset(episode, seed=7)
    await wire.step(episode, 1, 5)
    return wire, episode, await wire.detach(episode)


Detached = tuple[StreamWire, Episode, bytes]


async def test_a_detached_episode_has_no_handle_any_more(detached: Detached):
    wire, episode, _ = detached
    assert (await refusal(wire.step(episode, 2, 5))).verdict == UNKNOWN


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_another_client_attaches_and_goes_on(detached: Detached, streams: Wires, kind: str):
    _, episode, token = detached
    other = await (streams.unary() if kind == "unary" else streams.stream())
    mine = episode.taken_over()
    response = await other.resume(mine, attach_token=token)
    assert response.replayed == 0
    assert (response.last.index, content(response.last.observation), response.last.reward) == (1, 12, 5.0)
    assert (await other.step(mine, 1, 5)).digest == response.last.digest
    assert content((await other.step(mine, 2, 5)).observation) == 17
    await other.close(mine)


async def test_the_same_client_attaches_again(detached: Detached):
    wire, episode, token = detached
    mine = episode.rebuilt()
    response = await wire.resume(mine, attach_token=token)
    assert content(response.last.observation) == 12
    assert content((await wire.step(mine, 2, 5)).observation) == 17


async def test_the_older_owner_is_refused_after_the_takeover(detached: Detached, streams: Wires):
    wire, episode, token = detached
    other = await streams.stream()
    mine = episode.taken_over()
    await other.resume(mine, attach_token=token)
    assert (await refusal(wire.resume(episode.rebuilt(), journal=episode.journal))).reason == "EPOCH_STALE"
    assert (await refusal(wire.resume(episode.rebuilt(), attach_token=token))).reason == "EPOCH_STALE"
    assert content((await other.step(mine, 2, 5)).observation) == 17
    await other.close(mine)


async def test_with_an_older_epoch_nobody_attaches(detached: Detached, streams: Wires):
    _, episode, token = detached
    other = await streams.stream()
    refused = await refusal(other.resume(episode.in_other_hands(), attach_token=token))
    assert refused.verdict == "ABORTED EPOCH_STALE"


@pytest.mark.parametrize(
    "forge",
    [
        lambda token: bytes([token[0] ^ 1]) + token[1:],
        lambda token: token[:-1] + bytes([token[-1] ^ 1]),
        lambda token: token[:-1],
        lambda token: token + b"x",
        lambda token: b"please",
    ],
)
async def test_a_forged_attach_token(detached: Detached, streams: Wires, forge: Any):
    _, episode, token = detached
    other = await streams.stream()
    refused = await refusal(other.resume(episode.taken_over(), attach_token=forge(token)))
    assert refused.verdict == NOT_YOURS
    await other.resume(episode.taken_over(), attach_token=token)


async def test_an_attach_token_is_for_one_episode(detached: Detached, streams: Wires):
    wire, _, token = detached
    other = await streams.stream()
    second = Episode("tally")
    await wire.reset(second, seed=7)
    refused = await refusal(other.resume(second.taken_over(), attach_token=token))
    assert refused.verdict == NOT_YOURS
    assert content((await wire.step(second, 1, 1)).observation) == 8


async def test_without_token_and_journal_nobody_takes_over(detached: Detached, streams: Wires):
    _, episode, _ = detached
    other = await streams.stream()
    assert (await refusal(other.resume(episode.taken_over()))).verdict == NOT_YOURS


async def test_detach_of_nothing(stream_wire: StreamWire):
    assert (await refusal(stream_wire.detach(Episode("tally")))).verdict == UNKNOWN


async def test_a_step_that_runs_goes_on_through_detach_and_attach(streams: Wires):
    wire, other = await streams.stream(), await streams.stream()
    episode, keeper = Episode("gate"), Episode("gate")
    await wire.reset(episode)
    await wire.reset(keeper)
    name = episode.episode_id.hex()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(refusal(wire.step(episode, 1, f"wait {name}")))
        await wire.step(keeper, 1, f"meet {name}")
        token = await wire.detach(episode)
        mine = episode.taken_over()
        assert (await other.resume(mine, attach_token=token)).last.index == 0
        again = tasks.create_task(other.step(mine, 1, f"wait {name}"))
        await wire.step(keeper, 2, f"open {name}")
    assert content(again.result().observation) == f"wait {name}"
    await other.close(mine)


# ---- a client that vanishes


async def test_a_client_whose_connection_broke_finds_its_episodes_again(streams: Wires):
    """Under a new connection, the same client instance, and a newer epoch."""
    episode = Episode("tally")
    async with channel_to(streams.address) as channel:
        first = StreamWire(channel, await hung_up_after(channel, episode))
        async with Stream.opened(channel, client_id=first.client_id) as stream:
            again = StreamWire(channel, stream)
            mine = episode.rebuilt()
            response = await again.resume(mine, journal=episode.journal)
            assert response.last.index == 1
            assert content((await again.step(mine, 2, 5)).observation) == 17
            await again.leave()


async def hung_up_after(channel: Any, episode: Episode) -> Stream:
    """A stream that ended after two commands."""
    async with Stream.opened(channel) as stream:
        wire = StreamWire(channel, stream)
        await wire.reset(episode, seed=7)
        await wire.step(episode, 1, 5)
    return stream


async def test_a_second_connection_of_one_client_may_take_an_episode_to_itself(streams: Wires):
    """The same Reset under another connection binds it there; the end of the first connection is no harm."""
    async with channel_to(streams.address) as channel, Stream.opened(channel) as first:
        wire = StreamWire(channel, first)
        episode = Episode("tally")
        began = await wire.reset(episode, seed=7)
        async with Stream.opened(channel, client_id=first.client_id) as second:
            request = pb.ResetRequest(
                episode_id=episode.episode_id,
                epoch=episode.epoch,
                lease_number=await wire.slot(episode),
                seed=7,
            )
            row = Row(5, pb.COMMAND_KIND_RESET, payload=request.SerializeToString())
            assert (await second.ask(row)).outcome() == began
            assert (await refusal(wire.step(episode, 1, 5))).verdict == UNKNOWN
            await first.hang_up()
            row = Row(5, index=1, payload=b"\x38\x0a")
            assert content((await second.ask(row)).outcome().observation) == 12
            await second.ask(Row(5, pb.COMMAND_KIND_CLOSE))


async def nothing_there(wire: Any, episode: Episode) -> None:
    """Wait until the host holds no copy of the episode; asking keeps none alive."""
    while True:
        refused = await refusal(wire.resume(episode.taken_over(), attach_token=b"none"))
        if refused.reason == "EPISODE_UNKNOWN":
            return
        assert refused.reason == "NOT_YOURS"
        await asyncio.sleep(0.05)


async def test_after_the_reattach_window_a_copy_is_gone_and_its_slot_free(impatient_host: Running):
    episode = Episode("scarce")
    async with channel_to(impatient_host.address) as channel:
        async with Stream.opened(channel) as stream:
            assert stream.welcome.reattach_window.seconds == 1
            wire = StreamWire(channel, stream)
            await wire.reset(episode, seed=7)
        async with Stream.opened(channel) as stream:
            wire = StreamWire(channel, stream)
            await asyncio.wait_for(nothing_there(wire, episode), 30)
            mine = episode.taken_over()
            assert (await wire.resume(mine, journal=episode.journal)).last.index == 0, (
                "a journal brings it back"
            )
            await wire.leave()


async def test_a_detached_copy_waits_for_the_reattach_window_only(impatient_host: Running):
    episode = Episode("tally")
    async with channel_to(impatient_host.address) as channel, Stream.opened(channel) as stream:
        wire = StreamWire(channel, stream)
        await wire.reset(episode, seed=7)
        await wire.detach(episode)
        await asyncio.wait_for(nothing_there(UnaryWire(channel), episode), 30)
        await wire.leave()


async def test_an_attached_episode_outlives_every_window(impatient_host: Running):
    """Idle time runs only while no client is attached."""
    left, kept = Episode("tally"), Episode("tally")
    async with channel_to(impatient_host.address) as channel, Stream.opened(channel) as stream:
        wire = StreamWire(channel, stream)
        await wire.reset(kept, seed=7)
        await wire.reset(left, seed=7)
        await wire.detach(left)
        await asyncio.wait_for(nothing_there(UnaryWire(channel), left), 30)
        assert content((await wire.step(kept, 1, 5)).observation) == 12
        await wire.leave()


async def test_an_idle_slot_goes_back_by_itself_and_the_client_is_told(impatient_host: Running):
    async with channel_to(impatient_host.address) as channel, Stream.opened(channel) as stream:
        wire = StreamWire(channel, stream)
        episode = Episode("tally")
        number = await wire.slot(episode)
        notice = await stream.notice(pb.NOTICE_KIND_SLOTS_RETURNED)
        assert (notice.lease_number, notice.count) == (number, 1)
        assert (await refusal(wire.reset(episode))).reason == "LEASE_INVALID"


async def test_an_episode_of_unary_calls_lives_by_its_idle_time(impatient_host: Running, streams: Wires):
    impatient = Wires(impatient_host.address, "unary", streams.stack)
    wire, other = await impatient.unary(), await impatient.unary()
    episode = Episode("tally")
    await wire.reset(episode, seed=7)
    await asyncio.wait_for(nothing_there(other, episode), 30)
    assert (await refusal(wire.step(episode, 1, 5))).verdict == UNKNOWN
