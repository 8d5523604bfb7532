"""Bad input, item by item: which status, reason and message it gets, from Python's client and on the raw wire, and that
every neighbour goes on unharmed. What is wrong on a command line is in ``test_cli_bad_input.py``.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import numpy as np
import pytest

import envmesh
from envmesh.v1 import environment_pb2 as pb
from tests.compliance.hosts import VALUE_BYTES, HostUnderTest, serving, write_key
from tests.compliance.messages import Episode, Refused, content, signed_lease, value
from tests.compliance.stream import Row, Stream
from tests.compliance.wire import StreamWire, Wires, acquire, channel_to
from tests.integration.command_line import started


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostUnderTest]:
    """A host with the environments of the compliance tests, and one whose actions are arrays."""
    path = tmp_path_factory.mktemp("keys") / "lease.pem"
    key = write_key(path)
    with serving(path, "pendulum=gymnasium:Pendulum-v1") as running:
        yield HostUnderTest(running.address, key)


@pytest.fixture
async def mesh(host: HostUnderTest) -> AsyncIterator[envmesh.Mesh]:
    """Python's client, whose neighbours are unharmed afterwards: episodes on the same connection and on another, of the
    same environment and of another, and of unary calls."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(envmesh.connect(host.address))
        another = await stack.enter_async_context(envmesh.connect(host.address))
        unary = await Wires(host.address, "unary", stack).unary()
        neighbours = [
            await stack.enter_async_context(each.episode(environment, seed=seed))
            for each in (client, another)
            for environment, seed in (("tally", 7), ("tally-process", 7), ("faulty", None))
        ]
        called = Episode("tally")
        await unary.reset(called, seed=7)
        yield client
        for neighbour in neighbours:
            assert neighbour.index == 0
            outcome = await neighbour.step("go on" if neighbour.spec.name == "faulty" else 5)
            assert outcome.observation in (12, "go on")
        assert content((await unary.step(called, 1, 5)).observation) == 12


@pytest.fixture
async def wires(mesh: envmesh.Mesh, host: HostUnderTest) -> AsyncIterator[Wires]:
    """Clients on the raw wire, beside the same neighbours."""
    async with AsyncExitStack() as stack:
        yield Wires(host.address, "stream", stack)


class Wrong:
    """What is expected of an error: its class, status, reason, and words of its message."""

    def __init__(self, kind: type[envmesh.EnvmeshError], code: str, reason: str, *words: str):
        self.kind, self.code, self.reason, self.words = kind, code, reason, words

    async def holds(self, command: Any) -> envmesh.EnvmeshError:
        with pytest.raises(envmesh.EnvmeshError) as raised:
            await command
        error = raised.value
        assert type(error) is self.kind, repr(error)
        assert (error.code.name, error.reason) == (self.code, self.reason)
        for word in self.words:
            assert word in str(error)
        return error


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


# ---- Python's client: the episode never begins


BAD_BEGINNINGS: dict[str, tuple[str, dict[str, Any], Wrong]] = {
    "unknown environment": (
        "nowhere",
        {},
        Wrong(envmesh.NotFound, "NOT_FOUND", "ENVIRONMENT_UNKNOWN", "'nowhere'", "tally@1"),
    ),
    "wrong version": (
        "tally@2",
        {},
        Wrong(envmesh.NotFound, "NOT_FOUND", "ENVIRONMENT_UNKNOWN", "'tally@2'", "tally@1"),
    ),
    "unsupported seed": (
        "gate",
        {"seed": 7},
        Wrong(envmesh.InvalidRequest, "INVALID_ARGUMENT", "SEED_UNSUPPORTED", "gate@1", "without one"),
    ),
    "unknown reset option": (
        "tally",
        {"options": {"begin": 3}},
        Wrong(envmesh.InvalidRequest, "INVALID_ARGUMENT", "OPTION_UNKNOWN", "'begin'", "known: start"),
    ),
    "an option where there are none": (
        "faulty",
        {"options": {"level": 3}},
        Wrong(envmesh.InvalidRequest, "INVALID_ARGUMENT", "OPTION_UNKNOWN", "'level'", "known: none"),
    ),
    "unknown task": (
        "tally",
        {"task": "million"},
        Wrong(envmesh.NotFound, "NOT_FOUND", "TASK_UNKNOWN", "'million'"),
    ),
    "a reset that raises": (
        "faulty",
        {"seed": 666},
        Wrong(envmesh.EpisodeAborted, "UNKNOWN", "ENVIRONMENT_RAISED", "ValueError: an unlucky seed"),
    ),
}


@pytest.mark.parametrize("name", BAD_BEGINNINGS)
async def test_an_episode_that_cannot_begin(mesh: envmesh.Mesh, name: str):
    environment, arguments, wrong = BAD_BEGINNINGS[name]
    await wrong.holds(mesh.episode(environment, **arguments).begin())


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", True])
async def test_a_seed_that_is_none_is_refused_before_it_is_sent(mesh: envmesh.Mesh, seed: Any):
    with pytest.raises(envmesh.InvalidRequest, match="0 to 2\\*\\*64 - 1") as refused:
        mesh.episode("tally", seed=seed)
    assert refused.value.reason == "SEED_UNSUPPORTED"


async def test_options_without_a_form_on_the_wire(mesh: envmesh.Mesh):
    with pytest.raises(envmesh.InvalidRequest, match="no form on the wire"):
        mesh.episode("tally", options={"start": object()})


# ---- Python's client: one step is wrong, and the episode unharmed


BAD_ACTIONS: dict[str, tuple[str, Any, Any]] = {
    "wrong type": ("tally", "five", 5),
    "wrong type for a process": ("tally-process", [5], 5),
    "null": ("tally", None, 5),
    "wrong shape": ("pendulum", np.zeros(2, np.float32), np.zeros(1, np.float32)),
    "wrong rank": ("pendulum", np.zeros((1, 1), np.float32), np.zeros(1, np.float32)),
    "out of bounds": ("pendulum", np.full(1, 99.0, np.float32), np.zeros(1, np.float32)),
    "not a number": ("pendulum", np.full(1, np.nan, np.float32), np.zeros(1, np.float32)),
    "text for an array": ("pendulum", "left", np.zeros(1, np.float32)),
    "an agent is missing": ("pair", {"left": 1}, {"left": 1, "right": 2}),
    "an agent too many": ("pair", {"left": 1, "right": 2, "centre": 3}, {"left": 1, "right": 2}),
}


@pytest.mark.parametrize("name", BAD_ACTIONS)
async def test_an_action_of_a_wrong_type_or_shape(mesh: envmesh.Mesh, name: str):
    environment, action, right = BAD_ACTIONS[name]
    async with mesh.episode(environment, seed=7) as episode:
        wrong = Wrong(envmesh.InvalidRequest, "INVALID_ARGUMENT", "ACTION_INVALID")
        error = await wrong.holds(episode.step(action))
        assert len(str(error)) > len("[ACTION_INVALID]") + 20, "it says what is wrong"
        assert episode.index == 0
        assert (await episode.step(right)).index == 1


async def test_an_action_without_a_form_on_the_wire(mesh: envmesh.Mesh):
    async with mesh.episode("mirror") as episode:
        wrong = Wrong(envmesh.InvalidRequest, "INVALID_ARGUMENT", "ACTION_INVALID", "no form on the wire")
        await wrong.holds(episode.step(object()))
        assert (await episode.step("fine")).observation == "fine"


async def test_a_step_before_reset(mesh: envmesh.Mesh):
    episode = mesh.episode("tally")
    with pytest.raises(envmesh.EpisodeEnded, match="has not begun"):
        await episode.step(5)
    with pytest.raises(envmesh.EpisodeEnded, match="has not begun"):
        _ = episode.observation


async def test_a_step_after_the_end(mesh: envmesh.Mesh):
    async with mesh.episode("tally", seed=7) as episode:
        assert (await episode.step(0)).terminated
        wrong = Wrong(envmesh.EpisodeEnded, "FAILED_PRECONDITION", "EPISODE_ENDED", "ended at step 1")
        for _ in range(2):
            await wrong.holds(episode.step(5))
        assert (await episode.reward()).value == 7.0
    with pytest.raises(envmesh.EpisodeEnded, match="closed"):
        await episode.step(5)


async def test_another_action_at_a_used_index(mesh: envmesh.Mesh):
    """As a user can come by it: the patience ends, and another action is tried."""
    name = secrets.token_hex(4)
    async with mesh.episode("gate") as episode, mesh.episode("gate") as keeper:
        with pytest.raises(envmesh.DeadlineExceeded):
            await episode.step(f"wait {name}", timeout=0.3)
        wrong = Wrong(envmesh.InvalidRequest, "ABORTED", "STEP_CONFLICT", "another action", "step 1")
        await wrong.holds(episode.step("something else"))
        await keeper.step(f"open {name}")
        assert (await episode.step(f"wait {name}")).observation == f"wait {name}"


async def test_an_old_epoch(mesh: envmesh.Mesh, host: HostUnderTest):
    """As a user can come by it: the same detached episode is attached twice."""
    async with envmesh.connect(host.address) as second, envmesh.connect(host.address) as third:
        async with mesh.episode("tally", seed=7) as first:
            await first.step(5)
            detached = await first.detach()
        episode = await second.attach(detached)
        assert episode.observation == 12
        wrong = Wrong(envmesh.EpisodeTakenOver, "ABORTED", "EPOCH_STALE", "newer owner")
        await wrong.holds(third.attach(detached))
        assert (await episode.step(5)).observation == 17
        await episode.close()


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"format": 2}', b"\xff\xfe"])
async def test_bytes_that_detach_never_gave(mesh: envmesh.Mesh, data: bytes):
    wrong = Wrong(
        envmesh.InvalidRequest, "INVALID_ARGUMENT", "MALFORMED", "not the bytes of episode.detach()"
    )
    await wrong.holds(mesh.attach(data))


async def test_an_oversized_action_is_refused_before_it_is_sent(mesh: envmesh.Mesh):
    async with mesh.episode("mirror") as episode:
        wrong = Wrong(envmesh.InvalidRequest, "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE", f"{VALUE_BYTES:,}")
        await wrong.holds(episode.step(bytes(VALUE_BYTES + 1)))
        assert (await episode.step("small")).observation == "small"


# ---- Python's client: the episode fails, and nobody else


BAD_OUTCOMES: dict[str, tuple[str, Any, Wrong]] = {
    "NaN reward": (
        "faulty",
        "nan",
        Wrong(envmesh.EpisodeAborted, "UNKNOWN", "REWARD_INVALID", "nan", "finite"),
    ),
    "infinite reward": (
        "faulty",
        "-inf",
        Wrong(envmesh.EpisodeAborted, "UNKNOWN", "REWARD_INVALID", "-inf", "finite"),
    ),
    "an exception": (
        "faulty",
        "raise",
        Wrong(envmesh.EpisodeAborted, "UNKNOWN", "ENVIRONMENT_RAISED", "LookupError: no such door"),
    ),
    "garbage": (
        "faulty",
        "garbage",
        Wrong(envmesh.EpisodeAborted, "UNKNOWN", "ENVIRONMENT_RETURNED", "step() must return"),
    ),
    "an oversized observation": (
        "mirror",
        {"bytes": VALUE_BYTES + 1},
        Wrong(
            envmesh.EpisodeAborted, "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE", "mirror@1", f"{VALUE_BYTES:,}"
        ),
    ),
    "a step over its limit": (
        "slow",
        "stay",
        Wrong(envmesh.EpisodeAborted, "ABORTED", "LIMIT_EXCEEDED", "step 1", "0.5 s"),
    ),
}


@pytest.mark.parametrize("name", BAD_OUTCOMES)
async def test_an_outcome_that_is_none(mesh: envmesh.Mesh, name: str):
    environment, action, wrong = BAD_OUTCOMES[name]
    async with mesh.episode(environment) as episode:
        error = await wrong.holds(episode.step(action))
        assert isinstance(error, envmesh.EpisodeAborted)
        assert error.failure.cause == wrong.reason
        assert not error.failure.reward_valid
        assert episode.outcome.reward == 0.0
        await wrong.holds(episode.step("go on"))


async def test_a_grade_that_is_not_finite(mesh: envmesh.Mesh):
    async with mesh.episode("faulty") as episode:
        wrong = Wrong(envmesh.EpisodeAborted, "UNKNOWN", "REWARD_INVALID", "nan")
        await wrong.holds(episode.reward())


async def test_a_failure_in_rollouts_is_no_return(mesh: envmesh.Mesh):
    trajectories = [
        trajectory async for trajectory in mesh.rollouts("faulty", lambda observation: "nan", episodes=3)
    ]
    assert len(trajectories) == 3
    for trajectory in trajectories:
        assert trajectory.failure is not None
        assert trajectory.failure.cause == "REWARD_INVALID"
        assert trajectory.return_ is None


# ---- Python's client: nobody is there


@pytest.mark.parametrize(
    "target", ["", "somewhere", ":7070", "somewhere:", "somewhere:http", "somewhere:70700"]
)
def test_a_target_that_is_none(target: str):
    with pytest.raises(ValueError, match="host:port"):
        envmesh.connect(target)


async def test_a_target_where_nobody_answers():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    wrong = Wrong(
        envmesh.MeshUnavailable, "UNAVAILABLE", "UNREACHABLE", f"127.0.0.1:{port}", "is the mesh up?"
    )
    await wrong.holds(envmesh.connect(f"127.0.0.1:{port}", connect_timeout=0.5).__aenter__())


# ---- the raw wire: what Python's client would never send


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
