"""The limit: a bidirectional stream of grpc.aio that coalesces, and does nothing else.

Events of all episodes travel in frames of columns. Whoever has something to send writes what is ready whenever the
stream is free, in frames of at most half of what is outstanding, within 32 and 512 events; a lone event is written at
once. There are no leases, deadlines, journals, digests, metrics or errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from benchmarks.job import STEPS, Echo, Play, Tally, playing
from benchmarks.peers import reference_pb2 as pb
from benchmarks.peers import reference_pb2_grpc
from benchmarks.peers.__main__ import run
from benchmarks.peers.bare_episodes import RESET, Episodes, Resumed, Vectorised

LEAST_EVENTS, MOST_EVENTS = 32, 512
FEW = 4
"""With at most so many episodes, each writes its own step; with more, a writer gathers what they have."""


class Outbox:
    """Events on their way out, in columns. A frame takes what is there and never waits for more."""

    def __init__(
        self, width: int, make_frame: Callable[..., Any], write: Callable[[Any], Awaitable[Any]], limit: int
    ):
        self.columns: tuple[list[Any], ...] = tuple([] for _ in range(width))
        self.make_frame = make_frame
        self.write = write
        self.limit = limit
        self.writing = False

    def extend(self, *columns: Iterable[Any]) -> None:
        """Add events, as many in each column."""
        for column, more in zip(self.columns, columns, strict=True):
            column.extend(more)

    async def send(self, group: asyncio.TaskGroup) -> None:
        """Write a lone event now, and more of them in a task, unless one is at it already."""
        if self.writing:
            return
        self.writing = True
        if len(self.columns[0]) == 1:
            await self.drain()
        else:
            group.create_task(self.drain(), name="writer")

    async def drain(self) -> None:
        """Write until nothing is left."""
        limit = self.limit
        while self.columns[0]:
            frame = self.make_frame(*[column[:limit] for column in self.columns])
            for column in self.columns:
                del column[:limit]
            await self.write(frame)
        self.writing = False


# ---- the server


class Servicer(reference_pb2_grpc.ReferenceServicer):
    """Steps the environments of a stream in its reader."""

    async def Coalesced(self, request_iterator: Any, context: Any) -> None:
        """Answer frames of commands with frames of outcomes."""
        environments: dict[int, Echo] = {}
        outbox = Outbox(4, _outcomes, context.write, MOST_EVENTS)
        async with asyncio.TaskGroup() as group:
            while (commands := await context.read()) is not grpc.aio.EOF:
                handles = list(commands.handles)
                observations, rewards, ends = [], [], []
                for handle, action in zip(handles, commands.actions, strict=True):
                    if action != RESET:
                        observation, reward, terminated, _, _ = environments[handle].step(action)
                    else:
                        environment = environments[handle] = Echo()
                        observation, reward, terminated = environment.reset()[0], 0.0, False
                    observations.append(observation)
                    rewards.append(reward)
                    ends.append(terminated)
                outbox.extend(handles, observations, rewards, ends)
                await outbox.send(group)


def _outcomes(handles: list[int], observations: list[bytes], rewards: list[float], ends: list[bool]) -> Any:
    return pb.Outcomes(
        handles=handles,
        observations=observations,
        rewards=rewards if any(rewards) else None,
        terminated=ends if True in ends else None,
    )


def serve(port: int) -> None:
    """Serve until the process ends."""
    run(_serve(port))


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    reference_pb2_grpc.add_ReferenceServicer_to_server(Servicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


# ---- the client


class Connection:
    """The client's end of the stream."""

    def __init__(self, stub: Any, concurrency: int):
        self.stream = stub.Coalesced()
        limit = min(MOST_EVENTS, max(LEAST_EVENTS, concurrency // 2))
        self.outbox = Outbox(2, lambda handles, actions: pb.Commands(handles=handles, actions=actions),
                             self.stream.write, limit)  # fmt: skip

    async def read(self) -> tuple[list[int], list[bytes], Sequence[bool]]:
        """The columns of the next frame: handles, observations, and whether the episodes have ended.

        Raises:
            EOFError: the server has ended the stream.
        """
        frame = await self.stream.read()
        if frame is grpc.aio.EOF:
            raise EOFError("the server has ended the stream")
        handles = list(frame.handles)
        return handles, list(frame.observations), list(frame.terminated) or [False] * len(handles)


class Inline:
    """Episodes that the reader itself resumes, a frame at a time."""

    def __init__(self, connection: Connection, episodes: Episodes, concurrency: int):
        self.connection = connection
        self.episodes = episodes
        self.pending = dict.fromkeys(range(concurrency), RESET)
        """What each episode is about to send; between two rounds of play, that of all."""

    async def stagger(self) -> None:
        """Take the episodes apart: the ones ahead of the others, by up to a whole episode."""
        for ahead in range(STEPS):
            await self.exchange(
                [handle for handle in self.pending if handle % STEPS > ahead], Tally(stopped=True)
            )

    async def play(self, tally: Tally) -> None:
        """Play all episodes until the tally is stopped."""
        await self.exchange(list(self.pending), tally)

    async def exchange(self, handles: list[int], tally: Tally) -> None:
        """Send what these are about to send, and go on until the tally is stopped and every answer is there."""
        self.episodes.latencies = tally.latencies
        pending, read, resume, outbox = (
            self.pending,
            self.connection.read,
            self.episodes.resume,
            self.connection.outbox,
        )
        outstanding = len(handles)
        async with asyncio.TaskGroup() as group:
            outbox.extend(handles, [pending.pop(handle) for handle in handles])
            if handles:
                await outbox.send(group)
            while outstanding:
                handles, observations, ends = await read()
                actions = resume(handles, observations, ends)
                # The end of an episode is followed by a reset, so this counts its steps and not its reset.
                tally.steps += len(handles) - ends.count(True)
                if tally.stopped:
                    pending.update(zip(handles, actions, strict=True))
                    outstanding -= len(handles)
                else:
                    outbox.extend(handles, actions)
                    await outbox.send(group)


class TaskSession:
    """An episode played by a task of its own, which waits for a future."""

    def __init__(self, connection: Connection, group: asyncio.TaskGroup, handle: int, few: bool):
        self.outbox = connection.outbox
        self.group = group
        self.handle = handle
        self.few = few
        self.loop = asyncio.get_running_loop()

    async def reset(self) -> bytes:
        """Begin an episode."""
        return (await self.step(RESET))[0]

    async def step(self, action: bytes) -> tuple[bytes, bool]:
        """Act once."""
        self.answer: asyncio.Future[tuple[bytes, bool]] = self.loop.create_future()
        outbox = self.outbox
        outbox.extend((self.handle,), (action,))
        if self.few:
            await outbox.send(self.group)
        elif not outbox.writing:
            outbox.writing = True
            self.group.create_task(outbox.drain(), name="writer")
        return await self.answer


@asynccontextmanager
async def _connection(port: int, concurrency: int) -> AsyncIterator[Connection]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Connection(reference_pb2_grpc.ReferenceStub(channel), concurrency)


@asynccontextmanager
async def connect_resumed(port: int, concurrency: int) -> AsyncIterator[Play]:
    """A generator an episode, resumed by the reader."""
    async with _connection(port, concurrency) as connection:
        inline = Inline(connection, Resumed(concurrency), concurrency)
        await inline.stagger()
        yield inline.play


@asynccontextmanager
async def connect_vector(port: int, concurrency: int) -> AsyncIterator[Play]:
    """One loop over whole frames."""
    async with _connection(port, concurrency) as connection:
        inline = Inline(connection, Vectorised(concurrency), concurrency)
        await inline.stagger()
        yield inline.play


@asynccontextmanager
async def connect_tasks(port: int, concurrency: int) -> AsyncIterator[Play]:
    """A task an episode, woken by a future."""
    async with _connection(port, concurrency) as connection, asyncio.TaskGroup() as group:
        sessions = [
            TaskSession(connection, group, handle, concurrency <= FEW) for handle in range(concurrency)
        ]

        async def read() -> None:
            while True:
                for handle, observation, ended in zip(*await connection.read(), strict=True):
                    sessions[handle].answer.set_result((observation, ended))

        reader = group.create_task(read(), name="reader")
        async with playing(sessions) as play:
            yield play
        reader.cancel()
