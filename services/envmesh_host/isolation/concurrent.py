"""The episodes of an asynchronous environment, played side by side in one event loop: each command is a task.

The loop is the host's own (inline), that of a thread, or that of a worker process.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from envmesh import event_loop
from envmesh.cancellation import was_cancelled
from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.breath import LOOK_SECONDS
from envmesh_host.isolation.frames import FLUSH_BYTES, FrameReader, Replies
from envmesh_host.isolation.global_random import GlobalRandom
from envmesh_host.isolation.job import (
    CHECKPOINT,
    CLOSE,
    RESET,
    RESUME,
    REWARD,
    STEP,
    cancelled,
    during,
    limit_exceeded,
)
from envmesh_host.isolation.record import RunningRecord
from envmesh_host.isolation.seeded import new_async_player
from envmesh_host.player import EMPTY_ROW, AsyncPlayer
from envmesh_host.served import Row, Served
from envmesh_host.shown import raised

__all__ = ["AsyncEpisodes", "Spawn", "run_worker_loop"]

READ_BYTES = 256 * 1024
STRETCH_SECONDS = 0.005


class Spawn(Protocol):
    """How a named task is begun in somebody's task group: ``TaskGroup.create_task`` fits."""

    def __call__(self, work: Coroutine[Any, Any, None], /, *, name: str) -> asyncio.Task[None]:
        """Begin a task."""
        ...


Answer = Callable[[Any, int, Row | Refusal, float], None]
"""Takes (key, kind, result, running seconds)."""

CANCEL_GRACE_SECONDS = 1.0
"""How long a cancelled command may take to end before it counts as stuck."""


class Command:
    """One command under way, and its task. ``started`` and ``timer`` are there once it has begun."""

    __slots__ = ("answered", "index", "key", "kind", "limit_seconds", "overran", "started", "task", "timer")

    def __init__(self, key: Any, kind: int, index: int, limit_seconds: float):
        self.key = key
        self.kind = kind
        self.index = index
        self.limit_seconds = limit_seconds
        self.started = 0.0
        self.overran = False
        self.answered = False
        self.task: asyncio.Task[None]
        self.timer: asyncio.TimerHandle | None = None

    @property
    def running_seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started if self.started else 0.0

    def set_timer(self, limit_seconds: float, overrun: Callable[[Command], None]) -> None:
        """Have ``overrun`` called after this limit, counted from now on."""
        self.stop_timer()
        self.timer = asyncio.get_running_loop().call_later(limit_seconds, overrun, self)

    def stop_timer(self) -> None:
        """No limit counts any more."""
        if self.timer is not None:
            self.timer.cancel()


class Episode:
    """An episode's player, and the command under way."""

    __slots__ = ("closing", "command", "player")

    def __init__(self) -> None:
        self.player: AsyncPlayer | None = None
        self.command: Command | None = None
        self.closing = False


class AsyncEpisodes:
    """All episodes of one loop. A key names an episode; ``note(key, since)`` hears when the author's code is called for
    it (a moment of ``time.monotonic``) and when it has ended (0); ``may_begin(key)`` is asked before (``breath.py``).

    A command that overruns its limit is cancelled. One that is not done a second later is answered all the same, and
    counts as stuck until it ends.
    """

    def __init__(
        self,
        served: Served,
        spawn: Spawn,
        answer: Answer,
        note: Callable[[Any, float], None] | None = None,
        global_random: GlobalRandom | None = None,
        may_begin: Callable[[Any], bool] = lambda key: True,
    ):
        self._served = served
        self._spawn = spawn
        self._answer = answer
        self._note = note or (lambda key, since: None)
        self._random = global_random
        self._may_begin = may_begin
        self._episodes: dict[Any, Episode] = {}
        self._stuck: set[Command] = set()

    @property
    def stuck(self) -> int:
        """Commands that were answered though their code still runs."""
        return len(self._stuck)

    def submit(self, key: Any, kind: int, index: int, payload: bytes, limit_seconds: float) -> None:
        """Begin a command; its answer comes later. CLOSE cancels the episode's other command and waits for it."""
        episode = self._episodes.get(key)
        if episode is None:
            episode = self._episodes[key] = Episode()
        command = Command(key, kind, index, limit_seconds)
        if kind == CLOSE:
            episode.closing = True
            running = episode.command
            if running is not None:
                running.task.cancel()
            work = self._close(episode, command, running)
        else:
            episode.command = command
            work = self._run(episode, command, payload)
        command.task = self._spawn(work, name=f"{during(kind, index)} of an episode")

    def close_all(self, limit_seconds: float) -> None:
        """Close every episode; the answers go where all answers go."""
        for key, episode in list(self._episodes.items()):
            if not episode.closing:
                self.submit(key, CLOSE, 0, b"", limit_seconds)

    async def _run(self, episode: Episode, command: Command, payload: bytes) -> None:
        result: Row | Refusal
        try:
            while not self._may_begin(command.key):  # noqa: ASYNC110 - told by a host that may be in another process
                await asyncio.sleep(LOOK_SECONDS)
            self._begin(command)
            self._note(command.key, command.started)
            result = await self._play(episode, command, payload)
        except Refusal as refusal:
            result = refusal
        except asyncio.CancelledError as error:
            result = cancelled()
            if not (episode.closing or command.overran):
                if was_cancelled(error):
                    raise
                result = raised(during(command.kind), error)
        except BaseException as error:  # sys.exit() in an environment is its own failure only
            result = raised(during(command.kind), error)
        finally:
            command.stop_timer()
            self._note(command.key, 0.0)
            self._stuck.discard(command)
            if episode.command is command:
                episode.command = None
        self._settle(command, result)

    def _begin(self, command: Command) -> None:
        """It may begin now, and its limit counts from now on: not while it was in doubt."""
        command.started = time.monotonic()
        command.set_timer(command.limit_seconds, self._overrun)

    async def _play(self, episode: Episode, command: Command, payload: bytes) -> Row:
        player, kind = episode.player, command.kind
        if kind == STEP and player is not None:
            return await player.step(payload)
        if kind in (RESET, RESUME):
            episode.player = None
            if player is not None:
                await player.close()
            if kind == RESET:
                reset = pb.ResetRequest.FromString(payload)
                player = episode.player = new_async_player(self._served, self._random, reset)
                return await player.reset(reset)
            resume = pb.ResumeRequest.FromString(payload)
            player = episode.player = new_async_player(self._served, self._random, resume)
            return await player.resume(resume, self._turns(command))
        if player is None:
            raise Refusal("no episode was begun here", reason="EPISODE_UNKNOWN")
        if kind == REWARD:
            return await player.reward(command.index)
        if kind == CHECKPOINT:
            return await player.checkpoint()
        raise Refusal(f"there is no command of kind {kind}", reason="INTERNAL")

    def _turns(self, command: Command) -> Callable[[], Awaitable[None]]:
        """For a replay: after every few milliseconds of it the others have their turn, and its limit begins anew, for
        that is one of each step."""
        loop = asyncio.get_running_loop()
        end = loop.time() + STRETCH_SECONDS

        async def turn() -> None:
            nonlocal end
            if loop.time() < end:
                return
            await asyncio.sleep(0)
            if not command.overran:
                command.set_timer(command.limit_seconds, self._overrun)
                self._note(command.key, time.monotonic())
            end = loop.time() + STRETCH_SECONDS

        return turn

    async def _close(self, episode: Episode, command: Command, running: Command | None) -> None:
        self._begin(command)
        result: Row | Refusal = EMPTY_ROW
        noted = False
        try:
            if running is not None:
                await asyncio.wait([running.task])
            self._note(command.key, time.monotonic())
            noted = True
            if episode.player is not None:
                await episode.player.close()
        except Refusal as refusal:
            result = refusal
        except asyncio.CancelledError as error:
            if not command.overran:
                if was_cancelled(error):
                    raise
                result = raised("close", error)
        except BaseException as error:  # as above
            result = raised("close", error)
        finally:
            command.stop_timer()
            self._stuck.discard(command)
            self._episodes.pop(command.key, None)
            if noted:
                self._note(command.key, 0.0)
            if running is not None and not running.task.done():
                self._stuck.add(running)
            elif running is not None:
                running.answered = True  # it may have been cancelled before it ever began
        self._settle(command, result)

    def _overrun(self, command: Command) -> None:
        """The limit has passed: cancel; and when the grace has passed too, answer without it."""
        if command.overran:
            self._stuck.add(command)
            self._settle(command, cancelled())
            return
        command.overran = True
        command.task.cancel()
        command.set_timer(CANCEL_GRACE_SECONDS, self._overrun)

    def _settle(self, command: Command, result: Row | Refusal) -> None:
        if command.answered:
            return
        command.answered = True
        if command.overran:
            outcome = "and could not be cancelled" if command in self._stuck else "and was cancelled"
            result = limit_exceeded(command.kind, command.index, command.limit_seconds, outcome)
        self._answer(command.key, command.kind, result, command.running_seconds)


class WorkerLoop:
    """The event loop of a worker process: requests in from a socket, answers out to it."""

    def __init__(self, connection: socket.socket, reader: FrameReader, replies: Replies):
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._reader = reader
        self._replies = replies
        self._unsent: list[memoryview] = []
        self._due = False
        self.ended = asyncio.Event()
        self.episodes: AsyncEpisodes

    def read(self) -> None:
        """Begin the commands that have come."""
        try:
            data = self._connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._connection)
            self.ended.set()
        for frame in self._reader.feed(data):
            self.begin(frame)

    def begin(self, frame: bytes) -> None:
        """Begin the commands of a frame."""
        request = pb.StreamRequest.FromString(frame)
        count = len(request.handles)
        kinds = request.kinds or (STEP,) * count
        indices = request.indices or (0,) * count
        submit = self.episodes.submit
        rows = zip(request.handles, kinds, indices, request.payloads, request.timeouts, strict=False)
        for handle, kind, index, payload, limit in rows:
            submit(handle, kind, index, payload, limit / 1e3)

    def answer(self, handle: int, kind: int, result: Row | Refusal, seconds: float) -> None:
        """Take an answer along; all that are ready in one turn of the loop go together."""
        self._replies.add(handle, kind, result, seconds)
        if self._replies.size > FLUSH_BYTES:
            self.write()
        elif not self._due:
            self._due = True
            self._loop.call_soon(self.write)

    def write(self) -> None:
        """Write what is ready, and the rest of it whenever the socket takes more."""
        self._due = False
        if self._replies:
            self._unsent.append(memoryview(self._replies.take()))
        while self._unsent:
            part = self._unsent[0]
            try:
                sent = self._connection.send(part)
            except BlockingIOError:
                self._loop.add_writer(self._connection, self._continue)
                return
            except OSError:
                self._unsent.clear()  # the host has gone, and this process is about to
                return
            if sent < len(part):
                self._unsent[0] = part[sent:]
            else:
                del self._unsent[0]

    def _continue(self) -> None:
        self._loop.remove_writer(self._connection)
        self.write()


def run_worker_loop(
    connection: socket.socket,
    reader: FrameReader,
    frames: list[bytes],
    replies: Replies,
    record: RunningRecord,
    served: Served,
) -> None:
    """Serve until the host closes the connection; then close what is open."""
    declaration = served.definition.declaration
    global_random = GlobalRandom() if declaration.global_random else None

    async def serve() -> None:
        connection.setblocking(False)
        worker = WorkerLoop(connection, reader, replies)
        async with asyncio.TaskGroup() as tasks:
            spawn: Spawn = functools.partial(tasks.create_task)

            running, breath = record.since, record.breath

            def may_begin(handle: int) -> bool:
                return time.monotonic() <= breath.until[0] and not breath.held[handle]

            def note(handle: int, since: float) -> None:
                running[handle] = since or -abs(running[handle])
                running[0] = handle

            worker.episodes = AsyncEpisodes(served, spawn, worker.answer, note, global_random, may_begin)
            for frame in frames:
                worker.begin(frame)
            asyncio.get_running_loop().add_reader(connection, worker.read)
            await worker.ended.wait()
            worker.episodes.close_all(declaration.limits.reset_seconds)
        worker.write()

    event_loop.run(serve())
