"""Plays episodes through a runner, one await a command, and keeps a record of what was lost."""

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from envmesh import values
from envmesh.errors import Refusal
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.runner import Job

MODULE = "tests.environments.misbehaving"


class Play:
    """A runner, and what it said of lost copies."""

    def __init__(self):
        self.runner: Any = None
        self.info: Any = None
        self.lost: list[tuple[Any, Refusal]] = []
        self.lost_changed = asyncio.Event()

    def copies_lost(self, seats, refusal):
        self.lost += [(seat, refusal) for seat in seats]
        self.lost_changed.set()

    def carry_out(self, seat, kind, index=0, payload=b"", limit=None):
        """A command's future; it ends with a row, or raises the refusal."""
        future = asyncio.get_running_loop().create_future()

        def done(job, result):
            assert future.cancelled() or not future.done(), "answered twice"
            if future.cancelled():
                return
            if isinstance(result, Refusal):
                future.set_exception(result)
            else:
                future.set_result(result)

        limits = self.info.step_limit if kind == pb.COMMAND_KIND_STEP else self.info.reset_limit
        limit = limit if limit is not None else limits.ToMilliseconds() / 1e3
        self.runner.submit(Job(kind, seat, index, payload, limit, done))
        assert not future.done(), "answered from within submit"
        return future

    async def episode(self, seed=None):
        """A new episode, reset."""
        episode = Episode(self)
        await episode.reset(seed)
        return episode

    async def lost_all(self, count):
        """Wait until so many copies are known to be lost."""
        while len(self.lost) < count:
            self.lost_changed.clear()
            await self.lost_changed.wait()


class Episode:
    """One episode; its observations as Python values."""

    def __init__(self, play):
        self.play = play
        self.seat = play.runner.seat()
        self.index = 0
        self.first: Any = None

    async def reset(self, seed=None):
        request = pb.ResetRequest() if seed is None else pb.ResetRequest(seed=seed)
        row = await self.play.carry_out(self.seat, pb.COMMAND_KIND_RESET, payload=request.SerializeToString())
        if not row[2] & pb.OUTCOME_FLAG_AGENTS:
            self.first = values.decode(row[0])
        return row

    def begin_step(self, action, limit=None):
        self.index += 1
        payload = values.encode(action)
        return self.play.carry_out(self.seat, pb.COMMAND_KIND_STEP, self.index, payload, limit)

    async def step(self, action, limit=None):
        return values.decode((await self.begin_step(action, limit))[0])

    def begin_close(self):
        return self.play.carry_out(self.seat, pb.COMMAND_KIND_CLOSE)

    async def close(self):
        return await self.begin_close()


@asynccontextmanager
async def playing(make, target, **overrides):
    """A started runner; afterwards it is stopped, and no process of it is left."""
    play = Play()
    definition = load(target if ":" in target else f"{MODULE}:{target}", **overrides)
    play.runner = make(definition, play.copies_lost)
    play.info = await play.runner.start()
    try:
        yield play
    finally:
        await play.runner.stop(2.0)


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid):
    """Wait until a process has ended; the test's timeout bounds it."""
    try:
        file = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(file, ended.set)
    try:
        await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(file)
        os.close(file)


def descendants():
    """Every process below this one."""
    found = []
    below = [os.getpid()]
    while below:
        current = below.pop()
        found.append(current)
        try:
            for task in Path(f"/proc/{current}/task").iterdir():
                below += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return set(found[1:])
