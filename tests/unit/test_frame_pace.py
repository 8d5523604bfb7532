"""When a client writes its next frame: two wait at a busy host, and a far one gets what a trip has room for."""

import asyncio
import heapq
import math
from collections import deque
from statistics import median

import pytest

from envmesh.client_settings import ClientSettings
from envmesh.frame_pace import FRAMES_A_TRIP, FRAMES_AHEAD, LEAST_GAP_SECONDS, UNSTEADY, FramePace
from envmesh.stream import HostConnection
from envmesh.v1 import environment_pb2 as pb


def test_two_frames_go_ahead_and_the_third_waits_for_the_host():
    pace = FramePace()
    for _ in range(FRAMES_AHEAD):
        assert pace.wait(1.0) == 0
        pace.write(1.0)
    assert pace.wait(60.0) == math.inf  # nothing is known of how far away the host is
    pace.take(1, 60.0)
    assert pace.wait(60.0) == 0


def test_what_a_busy_host_is_given_is_not_taken_for_what_is_on_the_way():
    pace = FramePace()
    pace.write(1.0)
    pace.take(1, 1.01)  # it is 10 ms away
    pace.write(2.0)
    pace.write(2.0)
    assert 0 < pace.wait(2.0) < 0.01
    assert pace.wait(2.01) == 0
    assert pace.wait(2.1) == math.inf  # both should be there since long
    pace.take(3, 2.1)
    assert pace.wait(2.1) == 0


def test_a_trip_that_was_short_once_is_forgotten_when_the_way_has_become_longer():
    pace = FramePace()
    pace.write(0.0)
    pace.take(1, 0.001)
    for taken in range(2, 26):
        pace.write(float(taken))
        pace.take(taken, taken + 0.1)
    pace.write(30.0)
    pace.write(30.0)
    assert pace.wait(30.02) == 0


def test_a_host_that_says_more_than_it_was_sent_is_given_no_more_than_two_frames_ahead():
    pace = FramePace()
    pace.take(2**63, 0.0)
    for _ in range(FRAMES_AHEAD):
        pace.write(1.0)
    assert pace.wait(1.0) == math.inf


def play(trip: float, work: float, every: float, seconds: float = 20.0) -> tuple[list[float], list[int]]:
    """A command ``every`` so often to a host ``trip`` away and back, which works for so long at a frame. Returns how
    long each command waited to be written, and how many frames were away whenever one was written."""
    pace, queued, waits, away = FramePace(), deque[float](), [], []
    coming: list[tuple[float, str]] = [(0.0, "command")]
    sent = taken = 0
    free, timed = 0.0, False
    while coming and coming[0][0] < seconds:
        now, what = heapq.heappop(coming)
        if what == "command":
            queued.append(now)
            heapq.heappush(coming, (now + every, "command"))
        elif what == "taken":
            taken += 1
            pace.take(taken, now)
        else:
            timed = False
        if queued and (wait := pace.wait(now)) < math.inf:
            if wait > 1e-9:
                if not timed:
                    timed = True
                    heapq.heappush(coming, (now + wait, "timer"))
                continue
            waits += [now - begun for begun in queued]
            queued.clear()
            pace.write(now)
            sent += 1
            away.append(sent - taken)
            free = max(free, now + trip / 2) + work
            heapq.heappush(coming, (free + trip / 2, "taken"))
    return waits, away


@pytest.mark.parametrize("trip", [0.01, 0.04, 0.2])
def test_commands_to_a_far_host_wait_for_a_small_part_of_the_trip(trip: float):
    waits, away = play(trip, work=0.0003, every=0.0002)
    assert median(waits) <= max(LEAST_GAP_SECONDS, trip / 8)
    assert max(waits[len(waits) // 2 :]) <= max(LEAST_GAP_SECONDS, trip / 4)
    assert max(away) <= FRAMES_AHEAD + UNSTEADY * FRAMES_A_TRIP


@pytest.mark.parametrize(("trip", "work"), [(0.0003, 0.0004), (0.0003, 0.001), (0.0005, 0.0005)])
def test_a_near_host_never_has_more_than_two_frames(trip: float, work: float):
    _, away = play(trip, work, every=0.00005)
    assert max(away) == FRAMES_AHEAD


def test_a_far_host_that_is_busy_is_not_given_more_and_more():
    _, away = play(0.04, work=0.03, every=0.0005)
    assert max(away[len(away) // 2 :]) <= FRAMES_AHEAD + UNSTEADY * FRAMES_A_TRIP


class FarHost:
    """A stream on which nothing comes back. ``enough`` is set when the third frame has been written."""

    def __init__(self) -> None:
        self.frames = 0
        self.enough = asyncio.Event()

    async def write(self, data: bytes) -> None:
        self.frames += 1
        if self.frames > FRAMES_AHEAD:
            self.enough.set()

    def cancel(self) -> None:
        pass


async def test_a_command_to_a_far_host_is_written_though_nothing_comes_back():
    connection = HostConnection(
        "host:1", "host", b"client", channel=None, settings=ClientSettings.given({})  # type: ignore[arg-type]
    )  # fmt: skip
    host = connection._call = FarHost()
    now = asyncio.get_running_loop().time()
    connection._pace.write(now - 2.0)
    connection._pace.take(1, now)  # it is 2 s away
    async with asyncio.TaskGroup() as tasks:
        writer = tasks.create_task(connection._write_when_woken(), name="writer")
        for index in range(FRAMES_AHEAD + 1):
            connection.send(1, index, pb.COMMAND_KIND_STEP, b"x")
            for _ in range(5):
                await asyncio.sleep(0)
        assert host.frames == FRAMES_AHEAD
        async with asyncio.timeout(10):
            await host.enough.wait()
        connection.cancel()
        writer.cancel()
