"""Leases: who may use which slots, shown with BIND on a stream, or beside a unary Reset."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import placement_pb2, placement_pb2_grpc
from tests.compliance.hosts import HostUnderTest
from tests.compliance.messages import Episode, Refused, content, opened_lease, signed_lease
from tests.compliance.stream import Row
from tests.compliance.wire import StreamWire, UnaryWire, Wires, acquire, called

INVALID = "PERMISSION_DENIED LEASE_INVALID"


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


def reset_payload(episode: Episode, lease_number: int, seed: int = 7) -> bytes:
    return pb.ResetRequest(
        episode_id=episode.episode_id, epoch=episode.epoch, lease_number=lease_number, seed=seed
    ).SerializeToString()


async def begin(wire: StreamWire, episode: Episode, lease_number: int) -> pb.Outcome:
    """Reset an episode in a slot of this lease."""
    row = Row(wire.handle(episode), pb.COMMAND_KIND_RESET, payload=reset_payload(episode, lease_number))
    return (await wire.stream.ask(row)).outcome()


# ---- showing and giving back


async def test_bind_tells_what_the_lease_is_for(stream_wire: StreamWire, channel: grpc.aio.Channel):
    lease = await acquire(channel, "tally", 3)
    assert (lease.count, lease.environment) == (3, "tally@1")
    assert lease.host_id == stream_wire.stream.welcome.host_id
    event = await stream_wire.stream.ask(Row(900, pb.COMMAND_KIND_BIND, payload=lease.token))
    bound = pb.LeaseBound.FromString(event.payload)
    assert (event.kind, bound.count, bound.environment.name) == (pb.EVENT_KIND_BOUND, 3, "tally")
    assert bound.environment.version == "1"
    assert bound.environment.recovery == pb.RECOVERY_CLASS_REPLAY
    assert bound.lease_idle.ToMilliseconds() > 0
    await stream_wire.stream.ask(Row(900, pb.COMMAND_KIND_RETURN))


async def test_a_lease_may_be_shown_again(streams: Wires, channel: grpc.aio.Channel):
    """By a client that reconnects, also after its time to be shown is over."""
    first, second = await streams.stream(), await streams.stream()
    lease = await acquire(channel, "tally", 2)
    await first.bind(lease.token)
    number = await second.bind(lease.token)
    assert content((await begin(second, Episode("tally"), number)).observation) == 7


async def test_a_lease_is_for_one_episode_after_another(stream_wire: StreamWire, channel: grpc.aio.Channel):
    number = await stream_wire.bind((await acquire(channel, "tally")).token)
    for _ in range(3):
        episode = Episode("tally")
        await begin(stream_wire, episode, number)
        await stream_wire.close(episode)


async def test_more_episodes_than_slots(stream_wire: StreamWire, channel: grpc.aio.Channel):
    number = await stream_wire.bind((await acquire(channel, "tally", 2)).token)
    first, second, third = Episode("tally"), Episode("tally"), Episode("tally")
    await begin(stream_wire, first, number)
    await begin(stream_wire, second, number)
    refused = await refusal(begin(stream_wire, third, number))
    assert refused.verdict == "RESOURCE_EXHAUSTED NO_CAPACITY"
    assert "2 slots of the lease" in refused.message
    assert content((await stream_wire.step(first, 1, 1)).observation) == 8
    await stream_wire.step(second, 1, 0)
    assert (await refusal(begin(stream_wire, third, number))).reason == "NO_CAPACITY", "until Close"
    await stream_wire.close(second)
    assert content((await begin(stream_wire, third, number)).observation) == 7


async def test_return_gives_back_idle_slots_only(stream_wire: StreamWire, channel: grpc.aio.Channel):
    stream = stream_wire.stream
    number = await stream_wire.bind((await acquire(channel, "tally", 5)).token)
    episode = Episode("tally")
    await begin(stream_wire, episode, number)

    async def give_back(count: int) -> int:
        await stream.send(Row(number, pb.COMMAND_KIND_RETURN, index=count))
        event = await stream.next_event(lambda event: event.kind == pb.EVENT_KIND_RETURNED)
        assert event.handle == number
        return event.index

    assert await give_back(1) == 1
    assert await give_back(100) == 3, "never the slot in use"
    assert await give_back(0) == 0
    assert content((await stream_wire.step(episode, 1, 1)).observation) == 8
    await stream_wire.close(episode)
    assert await give_back(0) == 1
    assert (await refusal(begin(stream_wire, Episode("tally"), number))).verdict == INVALID
    assert await give_back(0) == 0, "RETURN is for what is not there, too"


async def test_a_number_names_one_lease(stream_wire: StreamWire, channel: grpc.aio.Channel):
    first, second = await acquire(channel, "tally"), await acquire(channel, "tally")
    number = await stream_wire.bind(first.token)
    again = await refusal(stream_wire.stream.ask(Row(number, pb.COMMAND_KIND_BIND, payload=second.token)))
    assert again.verdict == "INVALID_ARGUMENT ARGUMENT_INVALID"
    await stream_wire.stream.ask(Row(number, pb.COMMAND_KIND_BIND, payload=first.token))


async def test_no_lease_was_shown_under_this_number(stream_wire: StreamWire):
    refused = await refusal(begin(stream_wire, Episode("tally"), 12345))
    assert refused.verdict == INVALID
    assert "12345" in refused.message


async def test_unary_calls_show_their_lease_with_reset(unary_wire: UnaryWire, channel: grpc.aio.Channel):
    unary_wire.lease = (await acquire(channel, "tally")).token
    episode = Episode("tally")
    await unary_wire.reset(episode)
    refused = await refusal(unary_wire.reset(Episode("tally")))
    assert refused.verdict == "RESOURCE_EXHAUSTED NO_CAPACITY"
    await unary_wire.close(episode)
    await unary_wire.reset(Episode("tally"))


async def test_a_lease_for_another_environment(unary_wire: UnaryWire, channel: grpc.aio.Channel):
    unary_wire.lease = (await acquire(channel, "saved")).token
    assert (await refusal(unary_wire.reset(Episode("tally")))).verdict == INVALID


async def test_a_lease_that_was_given_back_is_no_right_any_more(
    stream_wire: StreamWire, channel: grpc.aio.Channel
):
    lease = await acquire(channel, "tally")
    stub: Any = placement_pb2_grpc.PlacementServiceStub(channel)
    for _ in range(2):
        await called(stub.Release(placement_pb2.ReleaseRequest(tokens=[lease.token])))
    assert (await refusal(stream_wire.bind(lease.token))).verdict == INVALID
    shown = await acquire(channel, "tally")
    number = await stream_wire.bind(shown.token)
    await stream_wire.stream.ask(Row(number, pb.COMMAND_KIND_RETURN))
    assert (await refusal(stream_wire.bind(shown.token))).verdict == INVALID


# ---- what is no lease


def altered(token: bytes, **claims: Any) -> bytes:
    """The token with other claims under its old signature."""
    signed, said = opened_lease(token)
    for name, claim in claims.items():
        setattr(said, name, claim)
    signed.claims = said.SerializeToString()
    return signed.SerializeToString()


FORGERIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "none": (lambda token: b"", "there is none"),
    "noise": (lambda token: b"\xff" * 64, "cannot be read"),
    "text": (lambda token: b"let me in", "lease is refused"),
    "cut": (lambda token: token[: len(token) // 2], "lease is refused"),
    "more slots": (lambda token: altered(token, count=1000), "forged or damaged"),
    "another tenant": (lambda token: altered(token, tenant="rich"), "forged or damaged"),
    "another host": (lambda token: altered(token, host_id="elsewhere"), "forged or damaged"),
    "another environment": (lambda token: altered(token, environment="saved@1"), "forged or damaged"),
    "another lease": (lambda token: altered(token, lease_id=b"x" * 16), "forged or damaged"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_lease(streams: Wires, channel: grpc.aio.Channel, forgery: str):
    wire, unary = await streams.stream(), await streams.unary()
    neighbour = Episode("tally")
    await wire.reset(neighbour, seed=7)
    lease = await acquire(channel, "tally")
    forge, sentence = FORGERIES[forgery]
    token = forge(lease.token)
    refused = await refusal(wire.bind(token))
    assert refused.verdict == INVALID
    assert sentence in refused.message
    if token:
        unary.lease = token
        assert (await refusal(unary.reset(Episode("tally")))).verdict == INVALID
    assert content((await wire.step(neighbour, 1, 1)).observation) == 8
    await wire.bind(lease.token)


async def test_a_lease_signed_by_a_stranger(stream_wire: StreamWire, host: HostUnderTest):
    claims = {
        "host_id": stream_wire.stream.welcome.host_id,
        "environment": "tally@1",
        "show_before": time.time() + 10,
    }
    stranger = Ed25519PrivateKey.generate()
    refused = await refusal(stream_wire.bind(signed_lease(stranger, secrets.token_bytes(8), **claims)))
    assert refused.verdict == INVALID
    assert "key that is not known" in refused.message


@pytest.mark.parametrize(
    ("claims", "sentence"),
    [
        ({"show_before": -60}, "expired"),
        ({"show_before": -3600}, "expired"),
        ({"host_id": "another"}, "is for the host 'another'"),
        ({"count": 0}, "incomplete"),
        ({"lease_id": b"short"}, "incomplete"),
        ({"tenant": "another"}, "tenant"),
    ],
)
async def test_a_lease_that_is_signed_and_yet_no_right(
    streams: Wires,
    host: HostUnderTest,
    lease_key: Ed25519PrivateKey,
    claims: dict[str, Any],
    sentence: str,
):
    wire, unary = await streams.stream(), await streams.unary()
    valid = {"host_id": wire.stream.welcome.host_id, "environment": "tally@1", "show_before": 10}
    given = {**valid, **claims}
    given["show_before"] += time.time()
    token = signed_lease(lease_key, host.key_id, **given)
    refused = await refusal(wire.bind(token))
    assert refused.verdict == INVALID
    assert sentence in refused.message
    unary.lease = token
    assert (await refusal(unary.reset(Episode("tally")))).verdict == INVALID


async def test_a_lease_for_an_environment_that_is_not_served(
    stream_wire: StreamWire, host: HostUnderTest, lease_key: Ed25519PrivateKey
):
    token = signed_lease(
        lease_key,
        host.key_id,
        host_id=stream_wire.stream.welcome.host_id,
        environment="tally@2",
        show_before=time.time() + 10,
    )
    refused = await refusal(stream_wire.bind(token))
    assert refused.verdict == "NOT_FOUND ENVIRONMENT_UNKNOWN"


async def test_a_slot_that_another_was_shown_first(
    streams: Wires, host: HostUnderTest, lease_key: Ed25519PrivateKey, channel: grpc.aio.Channel
):
    """A broker may be wrong; a host is never overfilled."""
    first, second = await streams.stream(), await streams.stream()

    def lease(count: int) -> bytes:
        return signed_lease(
            lease_key,
            host.key_id,
            host_id=first.stream.welcome.host_id,
            environment="scarce@1",
            count=count,
            show_before=time.time() + 10,
        )

    number = await first.bind(lease(1))
    refused = await refusal(second.bind(lease(2)))
    assert refused.verdict == "ABORTED SLOT_TAKEN"
    assert "1 are free" in refused.message
    other = await second.bind(lease(1))
    assert (await refusal(second.bind(lease(1)))).verdict == "ABORTED SLOT_TAKEN"
    await first.stream.ask(Row(number, pb.COMMAND_KIND_RETURN))
    await second.stream.ask(Row(await second.bind(lease(1)), pb.COMMAND_KIND_RETURN))
    await second.stream.ask(Row(other, pb.COMMAND_KIND_RETURN))


async def test_a_full_host_refuses_an_unleased_reset_with_a_time_to_ask_again(unary_wire: UnaryWire):
    taken = [Episode("scarce"), Episode("scarce")]
    for episode in taken:
        await unary_wire.reset(episode)
    refused = await refusal(unary_wire.reset(Episode("scarce")))
    assert refused.verdict == "RESOURCE_EXHAUSTED NO_CAPACITY"
    assert refused.retry_after is not None
    assert refused.retry_after > 0
    assert content((await unary_wire.step(taken[0], 1, 1)).observation) == 1
    await unary_wire.close(taken[0])
    await unary_wire.reset(Episode("scarce"))
