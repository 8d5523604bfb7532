"""The two ways to speak with a host, under one interface: unary calls, and the Stream.

A test that is written against ``Wire`` holds both of them to the same behaviour. Every method returns the message that
the .proto documents, or raises ``Refused``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import grpc
from google.protobuf import duration_pb2

from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import environment_pb2_grpc, placement_pb2, placement_pb2_grpc, value_pb2
from tests.compliance.messages import Episode, Refused, refused_by, value
from tests.compliance.stream import PATIENCE, Row, Stream

OPTIONS = (
    ("grpc.max_receive_message_length", 256 << 20),
    ("grpc.max_send_message_length", 256 << 20),
    ("grpc.use_local_subchannel_pool", 1),
)


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of one's own."""
    async with grpc.aio.insecure_channel(address, OPTIONS) as channel:
        yield channel


async def called(call: Any) -> Any:
    """A unary call's reply. Raises: Refused."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await call
    except grpc.aio.AioRpcError as error:
        raise refused_by(error) from None


async def acquire(channel: grpc.aio.Channel, environment: str, count: int = 1) -> placement_pb2.Lease:
    """A lease for so many slots, all on one host. Raises: Refused."""
    stub: Any = placement_pb2_grpc.PlacementServiceStub(channel)
    request = placement_pb2.AcquireRequest(
        environment=environment,
        count=count,
        mode=placement_pb2.ACQUIRE_MODE_ALL,
        timeout=duration_pb2.Duration(seconds=int(PATIENCE)),
    )
    try:
        async with asyncio.timeout(PATIENCE):
            async for response in stub.Acquire(request):
                if response.WhichOneof("event") == "grant":
                    (lease,) = response.grant.leases
                    return lease
    except grpc.aio.AioRpcError as error:
        raise refused_by(error) from None
    raise AssertionError("the call ended without a grant")


def duration(seconds: float | None) -> duration_pb2.Duration | None:
    """How long a caller waits; None: the default."""
    if seconds is None:
        return None
    return duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


class Wire(Protocol):
    """One client instance, and how it speaks. ``patience`` in seconds."""

    client_id: bytes

    async def reset(
        self,
        episode: Episode,
        *,
        seed: int | None = None,
        options: Any = None,
        task: str = "",
        split: str = "",
        patience: float | None = None,
    ) -> pb.Outcome: ...

    async def step(
        self, episode: Episode, index: int, action: Any, *, patience: float | None = None
    ) -> pb.Outcome: ...

    async def reward(self, episode: Episode, *, again: bool = False) -> pb.RewardResponse: ...

    async def close(self, episode: Episode) -> None: ...

    async def checkpoint(self, episode: Episode) -> pb.SealedCheckpoint: ...

    async def resume(
        self,
        episode: Episode,
        *,
        journal: pb.Journal | None = None,
        attach_token: bytes = b"",
        return_outcomes: bool = False,
    ) -> pb.ResumeResponse: ...


def reset_entry(episode: Episode, seed: int | None, options: Any, task: str, split: str) -> pb.ResetEntry:
    """How an episode began, as its journal says it."""
    return pb.ResetEntry(
        environment=f"{episode.environment}@1",
        seed=seed,
        options=value(options) if options is not None else None,
        task=task,
        split=split,
    )


class UnaryWire:
    """Unary calls. A host alone takes a Reset without a lease; so these have none, unless ``lease`` is set."""

    def __init__(self, channel: grpc.aio.Channel):
        self.client_id = secrets.token_bytes(16)
        self.lease = b""
        self.stub: Any = environment_pb2_grpc.EnvironmentServiceStub(channel)
        self._begun: dict[bytes, Episode] = {}

    async def reset(
        self,
        episode: Episode,
        *,
        seed: int | None = None,
        options: Any = None,
        task: str = "",
        split: str = "",
        patience: float | None = None,
    ) -> pb.Outcome:
        request = pb.ResetRequest(
            episode_id=episode.episode_id,
            epoch=episode.epoch,
            seed=seed,
            options=value(options) if options is not None else None,
            task=task,
            split=split,
            environment=episode.environment,
            lease=self.lease,
            client_id=self.client_id,
            timeout=duration(patience),
        )
        outcome = (await called(self.stub.Reset(request))).outcome
        self._begun[episode.episode_id] = episode
        episode.note_reset(reset_entry(episode, seed, options, task, split), outcome)
        return outcome

    async def step(
        self, episode: Episode, index: int, action: Any, *, patience: float | None = None
    ) -> pb.Outcome:
        action = action if isinstance(action, value_pb2.Value) else value(action)
        request = pb.StepRequest(
            episode_id=episode.episode_id,
            epoch=episode.epoch,
            index=index,
            action=action,
            timeout=duration(patience),
        )
        outcome = (await called(self.stub.Step(request))).outcome
        episode.note_step(action, outcome)
        return outcome

    async def reward(self, episode: Episode, *, again: bool = False) -> pb.RewardResponse:
        request = pb.RewardRequest(episode_id=episode.episode_id, epoch=episode.epoch, again=again)
        return await called(self.stub.Reward(request))

    async def close(self, episode: Episode) -> None:
        await called(self.stub.Close(pb.CloseRequest(episode_id=episode.episode_id, epoch=episode.epoch)))

    async def checkpoint(self, episode: Episode) -> pb.SealedCheckpoint:
        request = pb.CheckpointRequest(episode_id=episode.episode_id, epoch=episode.epoch)
        return (await called(self.stub.Checkpoint(request))).checkpoint

    async def resume(
        self,
        episode: Episode,
        *,
        journal: pb.Journal | None = None,
        attach_token: bytes = b"",
        return_outcomes: bool = False,
    ) -> pb.ResumeResponse:
        request = pb.ResumeRequest(
            episode_id=episode.episode_id,
            epoch=episode.epoch,
            journal=journal,
            return_outcomes=return_outcomes,
            attach_token=attach_token,
            lease=self.lease,
            client_id=self.client_id,
        )
        response = await called(self.stub.Resume(request))
        self._begun[episode.episode_id] = episode
        return response

    async def leave(self) -> None:
        """Close what was begun and not taken over."""
        for episode in self._begun.values():
            request = pb.CloseRequest(episode_id=episode.episode_id, epoch=episode.epoch)
            with contextlib.suppress(Refused):
                await called(self.stub.Close(request))


class StreamWire:
    """The Stream. Each episode gets a handle at its Reset or Resume, and a slot of a lease that was shown before."""

    def __init__(self, channel: grpc.aio.Channel, stream: Stream):
        self.client_id = stream.client_id
        self.stream = stream
        self.leases: dict[str, int] = {}
        self.channel = channel
        self._numbers = itertools.count(1)
        self._handles: dict[tuple[bytes, int], int] = {}
        self._slots: dict[bytes, int] = {}

    def handle(self, episode: Episode) -> int:
        """The handle of an episode under its epoch; one that names nothing yet where it has none."""
        key = (episode.episode_id, episode.epoch)
        if key not in self._handles:
            self._handles[key] = next(self._numbers)
        return self._handles[key]

    async def slot(self, episode: Episode) -> int:
        """The number of a lease of one slot that is this episode's."""
        if episode.episode_id not in self._slots:
            lease = await acquire(self.channel, episode.environment)
            self._slots[episode.episode_id] = await self.bind(lease.token)
        return self._slots[episode.episode_id]

    async def bind(self, token: bytes) -> int:
        """Show a lease. Returns its number. Raises: Refused."""
        number = next(self._numbers)
        await self.stream.ask(Row(number, pb.COMMAND_KIND_BIND, payload=token))
        return number

    async def reset(
        self,
        episode: Episode,
        *,
        seed: int | None = None,
        options: Any = None,
        task: str = "",
        split: str = "",
        patience: float | None = None,
    ) -> pb.Outcome:
        request = pb.ResetRequest(
            episode_id=episode.episode_id,
            epoch=episode.epoch,
            lease_number=await self.slot(episode),
            seed=seed,
            options=value(options) if options is not None else None,
            task=task,
            split=split,
        )
        row = Row(
            self.handle(episode),
            pb.COMMAND_KIND_RESET,
            0,
            request.SerializeToString(),
            milliseconds(patience),
        )
        outcome = (await self.stream.ask(row)).outcome()
        episode.note_reset(reset_entry(episode, seed, options, task, split), outcome)
        return outcome

    async def step(
        self, episode: Episode, index: int, action: Any, *, patience: float | None = None
    ) -> pb.Outcome:
        action = action if isinstance(action, value_pb2.Value) else value(action)
        payload = action.SerializeToString(deterministic=True)
        row = Row(self.handle(episode), index=index, payload=payload, timeout=milliseconds(patience))
        outcome = (await self.stream.ask(row)).outcome()
        episode.note_step(action, outcome)
        return outcome

    async def reward(self, episode: Episode, *, again: bool = False) -> pb.RewardResponse:
        payload = pb.RewardRequest(again=True).SerializeToString() if again else b""
        event = await self.stream.ask(Row(self.handle(episode), pb.COMMAND_KIND_REWARD, payload=payload))
        assert event.kind == pb.EVENT_KIND_REWARD
        return pb.RewardResponse.FromString(event.payload)

    async def close(self, episode: Episode) -> None:
        event = await self.stream.ask(Row(self.handle(episode), pb.COMMAND_KIND_CLOSE))
        assert event.kind == pb.EVENT_KIND_CLOSED

    async def checkpoint(self, episode: Episode) -> pb.SealedCheckpoint:
        event = await self.stream.ask(Row(self.handle(episode), pb.COMMAND_KIND_CHECKPOINT))
        assert event.kind == pb.EVENT_KIND_CHECKPOINT
        return pb.SealedCheckpoint.FromString(event.payload)

    async def detach(self, episode: Episode) -> bytes:
        """Prepare a takeover. Returns the attach token."""
        event = await self.stream.ask(Row(self.handle(episode), pb.COMMAND_KIND_DETACH))
        assert event.kind == pb.EVENT_KIND_DETACHED
        return event.payload

    async def resume(
        self,
        episode: Episode,
        *,
        journal: pb.Journal | None = None,
        attach_token: bytes = b"",
        return_outcomes: bool = False,
    ) -> pb.ResumeResponse:
        request = pb.ResumeRequest(
            episode_id=episode.episode_id,
            epoch=episode.epoch,
            lease_number=await self.slot(episode) if journal is not None else 0,
            journal=journal,
            return_outcomes=return_outcomes,
            attach_token=attach_token,
        )
        event = await self.stream.ask(
            Row(self.handle(episode), pb.COMMAND_KIND_RESUME, payload=request.SerializeToString())
        )
        assert event.kind == pb.EVENT_KIND_RESUMED
        return pb.ResumeResponse.FromString(event.payload)

    async def leave(self) -> None:
        """Close what was begun, and give every slot back."""
        rows = [Row(handle, pb.COMMAND_KIND_CLOSE) for handle in self._handles.values()]
        rows += [Row(number, pb.COMMAND_KIND_RETURN) for number in self._slots.values()]
        if not rows or self.stream.ended:
            return
        await self.stream.send(*rows)
        for row in rows:
            await self.stream.answer(row.handle, kinds=(pb.EVENT_KIND_CLOSED, pb.EVENT_KIND_RETURNED))


def milliseconds(patience: float | None) -> int:
    """The timeouts column; 0: the default."""
    return 0 if patience is None else max(1, int(patience * 1000))


class Wires:
    """Opens wires of one kind, each a client instance with a connection of its own, and closes them in the end."""

    def __init__(self, address: str, kind: str, stack: AsyncExitStack):
        self.address = address
        self.kind = kind
        self.stack = stack

    async def __call__(self) -> UnaryWire | StreamWire:
        return await (self.unary() if self.kind == "unary" else self.stream())

    async def unary(self) -> UnaryWire:
        """A client of unary calls."""
        wire = UnaryWire(await self.stack.enter_async_context(channel_to(self.address)))
        self.stack.push_async_callback(wire.leave)
        return wire

    async def stream(self, **more: Any) -> StreamWire:
        """A client of the Stream. ``more`` are fields of its hello."""
        channel = await self.stack.enter_async_context(channel_to(self.address))
        stream = await self.stack.enter_async_context(Stream.opened(channel, **more))
        wire = StreamWire(channel, stream)
        self.stack.push_async_callback(wire.leave)
        return wire
