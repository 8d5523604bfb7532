"""Bad input on the raw wire: what the client in Python would never send, and what a host says of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

import envmesh
from envmesh.v1 import environment_pb2 as pb
from tests.compliance.hosts import HostUnderTest
from tests.compliance.messages import Episode, content, signed_lease, value
from tests.compliance.stream import Row, Stream
from tests.compliance.wire import StreamWire, Wires, acquire, channel_to
from tests.integration.bad_input.refused import refusal
from tests.integration.command_line import started


async def begun(wires: Wires) -> tuple[StreamWire, Episode]:
    wire, episode = await wires.stream(), Episode("tally", epoch=(2 << 32) + 5)
    await wire.reset(episode, seed=7)
    await wire.step(episode, 1, 5)
    return wire, episode


Command = Callable[[StreamWire, Episode], Any]


RAW: dict[str, tuple[Command, str, str]] = {
    "a step before reset": (
        lambda wire, episode: wire.step(Episode("tally"), 1, 5),
        "NOT_FOUND EPISODE_UNKNOWN",
        "no copy of the episode",
    ),
    "another action at a used index": (
        lambda wire, episode: wire.step(episode, 1, 6),
        "ABORTED STEP_CONFLICT",
        "another action was sent at step 1",
    ),
    "an index too far ahead": (
        lambda wire, episode: wire.step(episode, 3, 5),
        "OUT_OF_RANGE STEP_INDEX",
        "step 3 is out of turn: the last one was 1",
    ),
    "an index of the past": (
        lambda wire, episode: wire.step(episode, 0, 5),
        "OUT_OF_RANGE STEP_INDEX",
        "the first step has index 1",
    ),
    "an older rebuild": (
        lambda wire, episode: wire.resume(episode.at_epoch(episode.epoch - 1), journal=episode.journal),
        "ABORTED EPOCH_STALE",
        "epoch 2.5, this command has 2.4",
    ),
    "an older owner": (
        lambda wire, episode: wire.reset(episode.at_epoch((1 << 32) + 9)),
        "ABORTED EPOCH_STALE",
        "epoch 2.5, this command has 1.9",
    ),
    "an action that is no Value": (
        lambda wire, episode: wire.stream.ask(Row(wire.handle(episode), index=2, payload=b"\x0a\x05ab")),
        "INVALID_ARGUMENT ACTION_INVALID",
        "cannot be decoded",
    ),
    "a lease that is noise": (
        lambda wire, episode: wire.bind(b"\xff\xff"),
        "PERMISSION_DENIED LEASE_INVALID",
        "cannot be read",
    ),
    "a command of an unknown kind": (
        lambda wire, episode: wire.stream.ask(Row(wire.handle(episode), 99, index=2)),
        "INVALID_ARGUMENT ARGUMENT_INVALID",
        "command kind 99 is unknown",
    ),
}


@pytest.mark.parametrize("name", RAW)
async def test_a_command_that_is_wrong(wires: Wires, name: str):
    wire, episode = await begun(wires)
    command, verdict, words = RAW[name]
    refused = await refusal(command(wire, episode))
    assert refused.verdict == verdict
    assert words in refused.message
    assert refused.failure is None, "the episode is unharmed"
    assert content((await wire.step(episode, 2, 5)).observation) == 17


async def test_a_step_after_the_end_on_the_wire(wires: Wires):
    wire, episode = await begun(wires)
    await wire.step(episode, 2, 0)
    refused = await refusal(wire.step(episode, 3, 5))
    assert refused.verdict == "FAILED_PRECONDITION EPISODE_ENDED"
    assert "ended at step 2" in refused.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signature": b"x" * 64}, "forged or damaged"),
        ({"key_id": b"x" * 8}, "key that is not known"),
        ({"claims": b""}, "forged or damaged"),
    ],
)
async def test_a_forged_lease(wires: Wires, host: HostUnderTest, change: dict[str, bytes], words: str):
    from envmesh.v1 import placement_pb2

    wire, episode = await begun(wires)
    async with channel_to(host.address) as channel:
        lease = await acquire(channel, "tally")
    signed = placement_pb2.SignedLease.FromString(lease.token)
    for name, forged in change.items():
        setattr(signed, name, forged)
    refused = await refusal(wire.bind(signed.SerializeToString()))
    assert refused.verdict == "PERMISSION_DENIED LEASE_INVALID"
    assert words in refused.message
    assert content((await wire.step(episode, 2, 5)).observation) == 17


async def test_an_expired_lease(wires: Wires, host: HostUnderTest):
    wire, episode = await begun(wires)
    assert host.lease_key is not None
    token = signed_lease(
        host.lease_key,
        host.key_id,
        host_id=wire.stream.welcome.host_id,
        environment="tally@1",
        show_before=time.time() - 60,
    )
    refused = await refusal(wire.bind(token))
    assert refused.verdict == "PERMISSION_DENIED LEASE_INVALID"
    assert "expired" in refused.message
    assert content((await wire.step(episode, 2, 5)).observation) == 17


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"\xff\xff\xff", "cannot be decoded"),
        (pb.StreamRequest(handles=[1, 2], indices=[1]).SerializeToString(), "columns disagree"),
        (pb.StreamRequest(handles=range(1, 4098)).SerializeToString(), "at most 4096 rows"),
        (pb.StreamRequest(hello=pb.Hello()).SerializeToString(), "first request only"),
    ],
    ids=["noise", "uneven columns", "too many rows", "a second hello"],
)
async def test_a_hostile_frame(wires: Wires, frame: bytes, words: str):
    wire, episode = await begun(wires)
    await wire.stream.send_bytes(frame)
    refused = await wire.stream.over()
    assert refused.verdict == "INVALID_ARGUMENT MALFORMED"
    assert words in refused.message
    second = await wires.stream()
    mine = episode.taken_over()
    assert (await second.resume(mine, journal=episode.journal)).last.index == 1
    await second.close(mine)


async def test_an_oversized_message(wires: Wires):
    wire, episode = await begun(wires)
    size = wire.stream.welcome.max_frame_bytes + 1
    await wire.stream.send(Row(wire.handle(episode), index=2, payload=value(bytes(size)).SerializeToString()))
    refused = await wire.stream.over()
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(wire.stream.welcome.max_frame_bytes) in refused.message


async def test_a_wrong_action_among_many_in_one_frame(mesh: envmesh.Mesh, host: HostUnderTest):
    """The fast path takes a frame as columns; one bad row costs the other rows nothing."""
    async with channel_to(host.address) as channel, Stream.opened(channel) as stream:
        wire = StreamWire(channel, stream)
        number = await wire.bind((await acquire(channel, "tally", 64)).token)
        handles = list(range(500, 564))
        resets = [
            pb.ResetRequest(episode_id=secrets.token_bytes(16), epoch=1, lease_number=number, seed=handle)
            for handle in handles
        ]
        await stream.send(
            *(
                Row(handle, pb.COMMAND_KIND_RESET, payload=reset.SerializeToString())
                for handle, reset in zip(handles, resets, strict=True)
            )
        )
        for handle in handles:
            await stream.answer(handle)
        bad = {510: value("x").SerializeToString(), 520: b"\xff", 530: value({"a": 1}).SerializeToString()}
        right = value(5).SerializeToString()
        await stream.send(*(Row(handle, index=1, payload=bad.get(handle, right)) for handle in handles))
        for handle in handles:
            if handle in bad:
                assert (await refusal(stream.answer(handle, 1))).reason == "ACTION_INVALID"
                assert (await stream.ask(Row(handle, index=1, payload=right))).reward == 5.0
            else:
                assert content((await stream.answer(handle, 1)).outcome().observation) == handle + 5
        await stream.send(*(Row(handle, pb.COMMAND_KIND_CLOSE) for handle in handles))


async def test_a_host_in_a_mesh_takes_no_reset_without_a_lease():
    """A host alone does; in a mesh only the broker gives out slots."""
    with started("up", "tally=tests.environments.contract:Tally", "--listen", "127.0.0.1:0") as running:
        async with AsyncExitStack() as stack, channel_to(running.address) as broker:
            lease = await acquire(broker, "tally")
            unary = await Wires(lease.address, "unary", stack).unary()
            refused = await refusal(unary.reset(Episode("tally")))
            assert refused.verdict == "PERMISSION_DENIED LEASE_INVALID"
            assert "acquire a lease first" in refused.message
            unary.lease = lease.token
            assert content((await unary.reset(Episode("tally"), seed=7)).observation) == 7
