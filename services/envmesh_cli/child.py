"""A child process of a local mesh: started, watched, started again when it dies, and ended in two stages.

What a child says comes as lines on its standard output and error: JSON records of its log, and whatever else it or an
environment's code prints. The record ``ready`` tells its address and the port of its metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envmesh_cli.failures import FAILED, CommandFailed

__all__ = ["Backoff", "Child", "ChildFailed", "Line", "complaint"]

READ_BYTES = 64 * 1024
LONGEST_LINE = 16 * 1024
LAST_WORDS = 30
LISTEN_ON_SECONDS = 1.0
"""How long a child that has ended is listened to, where a process that it started holds its output open."""


class ChildFailed(CommandFailed):
    """A child could not start, or died again and again."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a child said, or that was said about it. ``level`` is empty for what is no log record."""

    source: str
    level: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next start: longer after each short life, until there were too many."""

    shortest: float = 0.1
    longest: float = 5.0
    good_life: float = 30.0
    attempts: int = 8
    failed: int = 0

    def delay(self, lived: float) -> float | None:
        """Seconds until the next start, after a life of ``lived`` seconds; None: no more."""
        self.failed = 1 if lived >= self.good_life else self.failed + 1
        if self.failed > self.attempts:
            return None
        return float(min(self.longest, self.shortest * 2 ** (self.failed - 1)))


class Child:
    """One child process. ``supervise`` runs it until ``end`` or ``kill``."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        tell: Callable[[Line], None],
        *,
        backoff: Backoff | None = None,
    ):
        self.name = name
        self.command = tuple(command)
        self.environ = dict(environ)
        self.address = ""
        self.metrics_port = 0
        self.page_port = 0
        self.fleet_address = ""
        self.starts = 0
        self.ready = asyncio.Event()
        """Set while it serves."""
        self._tell = tell
        self.backoff = backoff or Backoff()
        self.when_ready: Callable[[], None] = lambda: None
        self._process: asyncio.SubprocessTransport | None = None
        self._ending = asyncio.Event()
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)

    @property
    def process_id(self) -> int | None:
        """The process, while there is one."""
        return self._process.get_pid() if self._process is not None else None

    @property
    def metrics(self) -> str:
        """Where its metrics are."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    async def supervise(self) -> None:
        """Run the process until it is told to end.

        Raises:
            ChildFailed: its first start failed, or it died too often.
        """
        loop = asyncio.get_running_loop()
        while not self._ending.is_set():
            started = loop.time()
            status = await self._live()
            was_ready = self.ready.is_set()
            self.ready.clear()
            if self._ending.is_set():
                return
            if self.starts == 1 and not was_ready:
                raise ChildFailed(self._obituary(status), status if status == 2 else FAILED)
            delay = self.backoff.delay(loop.time() - started)
            if delay is None:
                raise ChildFailed(
                    f"{self.name} died {self.backoff.failed} times, the last time: {self._obituary(status)}"
                )
            went = "left" if status == 0 else f"died ({_cause(status)})"
            self._say("warning", f"{went}; starts again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._ending.wait()

    def end(self) -> None:
        """First stage: ask it to drain and end."""
        self._ending.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Second stage: end it now."""
        self._ending.set()
        self._signal(signal.SIGKILL)

    def crash(self) -> None:
        """Kill the process as an accident would; it is started again."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.get_returncode() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _live(self) -> int:
        """One life of the process. Returns its exit status."""
        self.starts += 1
        self._last_words.clear()
        process, life = await asyncio.get_running_loop().subprocess_exec(
            _Life, sys.executable, "-m", "envmesh_cli.child_entry", str(os.getpid()), *self.command,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **self.environ}, start_new_session=True,
        )  # fmt: skip
        self._process = process
        try:
            if self._ending.is_set():
                self._signal(signal.SIGTERM)
            assert life.stdout is not None
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(self._listen(life.stdout), name=f"output-{self.name}")
                await life.ended.wait()
                await asyncio.wait([listening], timeout=LISTEN_ON_SECONDS)
                listening.cancel()
        finally:
            if not life.ended.is_set():
                self._signal(signal.SIGKILL)
                await asyncio.shield(life.ended.wait())
            process.close()
            self._process = None
        status = process.get_returncode()
        assert status is not None
        return status

    async def _listen(self, output: asyncio.StreamReader) -> None:
        rest = b""
        while data := await output.read(READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._hear(line[:LONGEST_LINE].decode(errors="replace").rstrip())
            rest = rest[:LONGEST_LINE]
        if rest:
            self._hear(rest.decode(errors="replace"))

    def _hear(self, text: str) -> None:
        line = read_line(self.name, text)
        if line.level and line.text == "ready" and "address" in line.fields:
            self.address = str(line.fields["address"])
            self.metrics_port = int(line.fields.get("metrics", 0))
            self.page_port = int(line.fields.get("page", 0))
            self.fleet_address = str(line.fields.get("fleet", ""))
            self.ready.set()
            self.when_ready()
        elif line.text:
            self._last_words.append(line.text)
        self._tell(line)

    def _say(self, level: str, text: str) -> None:
        self._tell(Line(self.name, level, text))

    def _obituary(self, status: int) -> str:
        words = [word for word in self._last_words if word.strip()]
        last = complaint(words) or "\n".join(words[-8:])
        return f"{self.name}: {last}" if last else f"{self.name} ended before it was ready ({_cause(status)})"


class _Life(asyncio.subprocess.SubprocessStreamProtocol):
    """One life of a process. Its end is told when it has ended, and not when its output has: a process that it
    started may hold that open for longer."""

    def __init__(self) -> None:
        super().__init__(limit=READ_BYTES, loop=asyncio.get_running_loop())
        self.ended = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.ended.set()


def complaint(lines: Sequence[str]) -> str:
    """Why a command of envmesh could not go on, out of the lines it wrote: the last sentence that begins with its
    name, without that, and what follows it. Empty where there is none."""
    begins = [number for number, line in enumerate(lines) if line.startswith("envmesh ")]
    return "\n".join(lines[begins[-1] :]).partition(": ")[2] if begins else ""


def read_line(source: str, text: str) -> Line:
    """A line of a child: a record of its log where it is one."""
    if text.startswith("{"):
        try:
            record = json.loads(text)
            level, message = record.pop("level"), record.pop("message")
        except (ValueError, KeyError, AttributeError):
            return Line(source, "", text)
        fields = {
            key: value
            for key, value in record.items()
            if key not in ("time", "service", "logger", "traceback")
        }
        if "traceback" in record:
            message = f"{message}\n{record['traceback']}"
        return Line(source, str(level), str(message), fields)
    return Line(source, "", text)


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
