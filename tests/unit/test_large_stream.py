"""What takes slots and gives them back keeps its order, though large values have a stream of their own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from envmesh.client_settings import ClientSettings
from envmesh.frame_bounds import LARGE_VALUE_BYTES
from envmesh.stream import HostConnection
from envmesh.v1 import environment_pb2 as pb

STEP, RESET, CLOSE = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_CLOSE
RESUME, RETURN = pb.COMMAND_KIND_RESUME, pb.COMMAND_KIND_RETURN
LARGE = b"x" * LARGE_VALUE_BYTES


class Call:
    """A stream to nobody: ``written`` are the frames."""

    def __init__(self) -> None:
        self.written: list[pb.StreamRequest] = []
        self.room = asyncio.Semaphore(1000)

    async def write(self, data: bytes) -> None:
        await self.room.acquire()
        self.written.append(pb.StreamRequest.FromString(data))


class Streams:
    """The two streams of a connection, seen from the host; their handles that name nothing are marks."""

    def __init__(self) -> None:
        self.connection = HostConnection(
            "host:1", "host", b"client", channel=None, settings=ClientSettings.given({})  # type: ignore[arg-type]
        )  # fmt: skip
        self.connection._call, self.large = Call(), Call()
        self.named: set[int] = set()

    def send(self, handle: int, kind: int, payload: bytes = b"") -> None:
        self.named.add(handle)
        self.connection.send(handle, 0, kind, payload)

    def mains(self) -> list[tuple[int, int]]:
        """What the host has been sent by the main stream since this was asked last."""
        rows = self.connection.rows
        sent = list(zip(rows.handles, rows.kinds, strict=True))
        rows._clear()
        return self._answered(sent)

    async def larges(self) -> list[tuple[int, int]]:
        """And by the large one."""
        for _ in range(10):
            await asyncio.sleep(0)
        frames, self.large.written = self.large.written, []
        return self._answered(
            [(frame.handles[0], frame.kinds[0] if frame.kinds else STEP) for frame in frames if frame.handles]
        )

    def _answered(self, sent: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The host answers the marks; the rest is returned."""
        for handle, _ in sent:
            if handle not in self.named:
                closed: Any = pb.EVENT_KIND_CLOSED
                frame = pb.StreamResponse(handles=[handle], indices=[0], payloads=[b""], kinds=[closed])
                self.connection._delivery.deliver(frame)
        return [row for row in sent if row[0] in self.named]


@pytest.fixture
async def streams():
    streams = Streams()
    for handle in range(1, 100):
        assert streams.connection.fresh_handle() == handle
    async with asyncio.TaskGroup() as tasks:
        writer = tasks.create_task(streams.connection.large.write(streams.large), name="large-writer")
        yield streams
        writer.cancel()


@pytest.mark.parametrize("kind", [RESET, RESUME])
async def test_a_large_one_goes_when_all_before_it_is_carried_out(streams: Streams, kind: int):
    streams.send(1, CLOSE)
    streams.send(2, kind, LARGE)
    assert await streams.larges() == []
    assert streams.mains() == [(1, CLOSE)]
    assert await streams.larges() == [(2, kind)]


async def test_what_follows_a_large_one_goes_behind_it_until_the_host_has_come_so_far(streams: Streams):
    streams.send(1, RESET, LARGE)
    streams.mains()
    assert streams.connection.large.leads
    streams.send(2, RESET)
    streams.send(3, STEP)
    streams.send(4, RETURN)
    assert streams.mains() == [(3, STEP)]
    assert await streams.larges() == [(1, RESET), (2, RESET), (4, RETURN)]
    assert not streams.connection.large.leads
    streams.send(2, CLOSE)
    assert streams.mains() == [(2, CLOSE)]


async def test_what_follows_behind_the_last_mark_keeps_its_place(streams: Streams):
    streams.send(1, RESET, LARGE)
    streams.mains()
    for _ in range(10):
        await asyncio.sleep(0)  # the mark is written, and not answered yet
    streams.send(1, CLOSE)
    assert await streams.larges() == [(1, RESET), (1, CLOSE)]
    assert not streams.connection.large.leads


async def test_what_is_closed_before_it_went_does_not_go(streams: Streams):
    streams.send(1, RESET, LARGE)
    streams.send(2, RESET, LARGE)
    streams.send(1, CLOSE)
    streams.mains()
    assert await streams.larges() == [(2, RESET), (1, CLOSE)]


async def test_a_large_step_changes_no_order(streams: Streams):
    streams.send(1, STEP, LARGE)
    streams.send(2, RESET)
    assert streams.mains() == [(2, RESET)]
    assert await streams.larges() == [(1, STEP)]


async def test_marks_leave_nothing_behind(streams: Streams):
    streams.send(1, RESET, LARGE)
    streams.mains()
    await streams.larges()
    assert streams.connection.sessions == {}


async def test_a_challenge_is_answered_by_the_large_stream_too(streams: Streams):
    streams.connection._heard(pb.Heartbeat(challenge=3))
    for _ in range(10):
        await asyncio.sleep(0)
    assert [frame.heartbeat.answer for frame in streams.large.written] == [3]


async def test_what_comes_while_a_challenge_is_answered_keeps_its_order(streams: Streams):
    streams.send(1, RESET, LARGE)
    streams.mains()
    streams.large.room = asyncio.Semaphore(2)  # for the reset and its mark, and for nothing more
    for _ in range(10):
        await asyncio.sleep(0)
    streams.connection._heard(pb.Heartbeat(challenge=3))
    for _ in range(10):
        await asyncio.sleep(0)
    streams.send(2, RESET, LARGE)
    for _ in range(2):  # for the answer, and for what follows it
        streams.large.room.release()
    assert await streams.larges() == [(1, RESET), (2, RESET)]
    streams.send(2, CLOSE)
    assert streams.mains() == []
    for _ in range(10):
        streams.large.room.release()
    assert (2, CLOSE) in await streams.larges()
