"""The program in a worker process: plays the episodes of one environment, for a host at the other end of a socket.

``prepare`` runs in the forkserver and imports the environment; what it returns runs in each fork. A synchronous
environment's commands are carried out one after another; finished ones are answered together, within a millisecond.
Journals are played again a few milliseconds at a time, in turns, so that no other episode waits for a long one.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from envmesh.env import Definition
from envmesh.errors import Refusal
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.breath import LOOK_SECONDS
from envmesh_host.isolation.concurrent import run_worker_loop
from envmesh_host.isolation.frames import FLUSH_BYTES, FrameReader, Replies
from envmesh_host.isolation.global_random import GlobalRandom
from envmesh_host.isolation.job import CHECKPOINT, CLOSE, RESET, RESUME, REWARD, STEP, cancelled, during
from envmesh_host.isolation.record import RunningRecord
from envmesh_host.isolation.seeded import new_player
from envmesh_host.player import EMPTY_ROW, Player
from envmesh_host.served import Row, Served
from envmesh_host.shown import raised

__all__ = ["prepare"]

FLUSH_SECONDS = 0.0005
STRETCH_SECONDS = 0.005
READ_BYTES = 256 * 1024

_Command = tuple[int, bytes, int, int]
"""Handle, payload, kind and index."""


def prepare(configuration: Mapping[str, Any]) -> Callable[[socket.socket, int], None]:
    """Import the environment that the configuration names; returns what a worker does.

    Raises:
        TargetError: the target cannot be loaded.
    """
    definition = load(configuration["target"], **configuration["declaration"])
    definition = replace(definition, name=configuration["name"])
    seats, most_bytes = configuration["seats"], configuration["max_value_bytes"]
    if definition.declaration.global_random:
        import numpy.random  # noqa: F401 - before the fork, for all of them

    def begin(connection: socket.socket, record: int) -> None:
        faulthandler.enable(file=2)
        gc.enable()
        # What the author's code forks is not to hold the connection, nor to answer on it.
        os.register_at_fork(after_in_child=connection.close)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        if "numpy.random" in sys.modules:
            sys.modules["numpy.random"].seed()  # `random` does so by itself
        running = RunningRecord(record, seats)
        running.introduce()
        os.close(record)
        _serve(connection, running, definition, seats, most_bytes)

    return begin


def _serve(
    connection: socket.socket, running: RunningRecord, definition: Definition, seats: int, most_bytes: int
) -> None:
    reader, replies = FrameReader(response=False), Replies(most_bytes)
    first, *more = _first_frames(connection, reader)
    hello = pb.StreamRequest.FromString(first)
    try:
        served = _served(definition, hello)
    except Refusal as refusal:
        replies.add(0, 0, refusal, 0.0)
        connection.sendall(replies.take())
        return
    if not hello.payloads[0]:
        info = served.info.SerializeToString()
        replies.add(0, 0, (info, 0.0, int(served.asynchronous), 0, b""), 0.0)
        connection.sendall(replies.take())
    if served.asynchronous:
        run_worker_loop(connection, reader, more, replies, running, served)
    else:
        Worker(connection, reader, replies, running, served, seats).run(more)


def _first_frames(connection: socket.socket, reader: FrameReader) -> list[bytes]:
    frames: list[bytes] = []
    while not frames:
        data = connection.recv(READ_BYTES)
        if not data:
            os._exit(0)
        frames.extend(reader.feed(data))
    return frames


def _served(definition: Definition, hello: pb.StreamRequest) -> Served:
    """The environment as served: found out by this worker, or as an earlier one found it."""
    if not hello.payloads[0]:
        return Served.prepare(definition)
    info = pb.EnvironmentInfo.FromString(hello.payloads[0])
    return Served.as_found(definition, info, asynchronous=bool(hello.indices[0]))


class Worker:
    """Plays a synchronous environment's episodes, one command at a time."""

    def __init__(
        self,
        connection: socket.socket,
        reader: FrameReader,
        replies: Replies,
        record: RunningRecord,
        served: Served,
        seats: int,
    ):
        self._connection = connection
        self._reader = reader
        self._replies = replies
        self._running = record.since
        self._until, self._held = record.breath.until, record.breath.held
        self._doubtful: list[_Command] = []
        self._served = served
        self._players: list[Player | None] = [None] * (seats + 1)
        self._random = GlobalRandom() if served.definition.declaration.global_random else None
        self._states: dict[int, Any] = {}
        self._current = 0
        self._replays: deque[_Replay] = deque()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._gone = select.poll()
        self._gone.register(connection, 0)

    def run(self, frames: list[bytes]) -> None:
        """Serve until the host closes the connection; then close what is open."""
        connection, feed, replies = self._connection, self._reader.feed, self._replies
        while True:
            for frame in frames:
                self._play(pb.StreamRequest.FromString(frame))
            if replies:
                connection.sendall(replies.take())
            if self._replays:
                self._replay_on()
                if replies:
                    connection.sendall(replies.take())
                if self._replays and not self._poll.poll(0):
                    frames = []
                    continue
            if self._doubtful and not self._poll.poll(LOOK_SECONDS * 1e3):
                waiting, self._doubtful, frames = self._doubtful, [], []
                self._play_all(waiting)
                continue
            data = connection.recv(READ_BYTES)
            if not data:
                break
            frames = list(feed(data))
        for handle, player in enumerate(self._players):
            if player is not None:
                self._carry_out(CLOSE, handle, 0, b"")

    def _play(self, request: pb.StreamRequest) -> None:
        """Carry out the commands of a frame."""
        count = len(request.handles)
        kinds = request.kinds or (STEP,) * count
        indices = request.indices or (0,) * count
        self._play_all(zip(request.handles, request.payloads, kinds, indices, strict=False))

    def _play_all(self, commands: Iterable[_Command]) -> None:
        """Carry out commands, answering whenever that is due."""
        running, replies, players, clock = self._running, self._replies, self._players, time.monotonic
        until, held = self._until, self._held
        result: Row | Refusal | None
        flushed = clock()
        for handle, payload, kind, index in commands:
            doubtful = clock() > until[0] or held[handle] or self._doubtful
            if doubtful and not self._may_begin(handle, kind):
                self._doubtful.append((handle, payload, kind, index))
                continue
            if self._random is not None and handle != self._current:
                self._switch(handle)
            running[handle] = started = clock()
            running[0] = handle
            try:
                player = players[handle]
                if kind == STEP and player is not None:
                    result = player.step(payload)
                else:
                    result = self._carry_out(kind, handle, index, payload)
            except Refusal as refusal:
                result = refusal
            except BaseException as error:  # sys.exit() in an environment is its own failure only
                result = raised(during(kind), error)
            ended = clock()
            running[handle] = -started
            if result is None:
                continue  # a journal, to be played in its turn
            replies.add(handle, kind, result, ended - started)
            if ended - flushed > FLUSH_SECONDS or replies.size > FLUSH_BYTES:
                self._connection.sendall(replies.take())
                flushed = clock()

    def _may_begin(self, handle: int, kind: int) -> bool:
        """Whether a command may begin, once the host has looked at its clock. One that closes an episode always may,
        and whatever was in doubt there is dropped."""
        while time.monotonic() > self._until[0] and not self._gone.poll(LOOK_SECONDS * 1e3):
            pass
        if kind != CLOSE:
            return not self._held[handle] and all(handle != waiting[0] for waiting in self._doubtful)
        for command in self._doubtful:
            if command[0] == handle:
                self._replies.add(handle, command[2], cancelled(), 0.0)
        self._doubtful = [command for command in self._doubtful if command[0] != handle]
        return True

    def _carry_out(self, kind: int, handle: int, index: int, payload: bytes) -> Row | None:
        player = self._players[handle]
        if kind in (RESET, RESUME, CLOSE):
            self._players[handle] = None
            if player is not None:
                player.close()
            if kind == CLOSE:
                self._states.pop(handle, None)
                return EMPTY_ROW
            if kind == RESET:
                reset = pb.ResetRequest.FromString(payload)
                player = self._players[handle] = new_player(self._served, self._random, reset)
                return player.reset(reset)
            resume = pb.ResumeRequest.FromString(payload)
            player = self._players[handle] = new_player(self._served, self._random, resume)
            self._replays.append(_Replay(handle, player, player.resume_by_steps(resume)))
            return None
        if player is None:
            raise Refusal("no episode was begun here", reason="EPISODE_UNKNOWN")
        if kind == REWARD:
            return player.reward(index)
        if kind == CHECKPOINT:
            return player.checkpoint()
        raise Refusal(f"a worker knows no command of kind {kind}", reason="INTERNAL")

    def _replay_on(self) -> None:
        """Play a stretch of the journals whose turn it is. Each step's moment is noted, for it has the limit of one."""
        running, clock = self._running, time.monotonic
        end = clock() + STRETCH_SECONDS
        while self._replays and clock() < end:
            replay = self._replays.popleft()
            handle = replay.handle
            if self._players[handle] is not replay.player:
                continue  # it was closed
            if self._random is not None and handle != self._current:
                self._switch(handle)
            started = now = clock()
            result: Row | Refusal | None = None
            try:
                while result is None and now <= end:
                    running[handle] = now
                    running[0] = handle
                    result = next(replay.steps)
                    now = clock()
            except Refusal as refusal:
                result = refusal
            except BaseException as error:  # as above
                result = raised(during(RESUME), error)
            running[handle] = -started
            replay.seconds += clock() - started
            if result is None:
                self._replays.append(replay)
            else:
                self._replies.add(handle, RESUME, result, replay.seconds)

    def _switch(self, handle: int) -> None:
        """Put the global generators where this seat's episode left them."""
        assert self._random is not None
        if self._current and self._players[self._current] is not None:
            self._states[self._current] = self._random.save()
        self._current = handle
        state = self._states.get(handle)
        if state is not None:
            self._random.load(state)


class _Replay:
    """A journal that is being played again."""

    __slots__ = ("handle", "player", "seconds", "steps")

    def __init__(self, handle: int, player: Player, steps: Iterator[Row | None]):
        self.handle = handle
        self.player = player
        self.steps = steps
        self.seconds = 0.0
