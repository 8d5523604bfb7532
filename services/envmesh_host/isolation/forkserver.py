"""The process that worker processes are forked from, one per environment: warm with its imports, and nothing else.

It is a fresh interpreter that never starts gRPC, has one thread of its own and none of the host's files; a fork of it
is a worker within a few milliseconds. The host speaks to it over a socket pair: first the configuration, then commands
of eight bytes (``START`` comes with the worker's socket and record); it answers with events, JSON behind its length.

It reads what workers print, keeps each one's last words, and passes on a bounded number of lines. It reaps them and
kills whatever processes they leave behind. It ends when its host does, and they end with it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from envmesh_host.isolation import kernel

__all__ = ["COMMAND", "EVENT_HEAD", "KILL", "START", "main"]

COMMAND = struct.Struct("<II")
EVENT_HEAD = struct.Struct("<I")
START, KILL = 1, 2

LAST_WORDS_BYTES = 4096
LINES_PER_SECOND = 20.0
LINES_AT_ONCE = 100.0
LINE_BYTES = 500
READ_BYTES = 64 * 1024

Begin = Callable[[socket.socket, int], None]


class Output:
    """What one worker prints: its last words, and the lines of it that are passed on."""

    __slots__ = ("listening", "pid", "pipe", "tail", "unfinished", "worker")

    def __init__(self, worker: int, pid: int, pipe: int):
        self.worker = worker
        self.pid = pid
        self.pipe = pipe
        self.listening = True
        self.tail = b""
        self.unfinished = b""

    def take(self, data: bytes) -> list[bytes]:
        """The lines that are complete with this data, cut to a bound."""
        self.tail = (self.tail + data[-LAST_WORDS_BYTES:])[-LAST_WORDS_BYTES:]
        *lines, rest = (self.unfinished + data).split(b"\n")
        self.unfinished = rest[:LINE_BYTES]
        return [line[:LINE_BYTES] for line in lines if line.strip()]


class LineAllowance:
    """How many lines may be passed on: a steady rate with some at once, and a count of what was not."""

    __slots__ = ("_moment", "_room", "dropped")

    def __init__(self) -> None:
        self._moment = time.monotonic()
        self._room = LINES_AT_ONCE
        self.dropped = 0

    def admit(self, lines: list[bytes]) -> list[bytes]:
        """Those of the lines that may pass."""
        now = time.monotonic()
        self._room = min(LINES_AT_ONCE, self._room + (now - self._moment) * LINES_PER_SECOND)
        self._moment = now
        admitted = lines[: int(self._room)]
        self._room -= len(admitted)
        self.dropped += len(lines) - len(admitted)
        return admitted


class ForkServer:
    """The loop of this process. ``begin`` is what a worker does with its socket and its record."""

    def __init__(self, control: socket.socket, begin: Begin, memory_bytes: int | None):
        self._control = control
        self._begin = begin
        self._memory_bytes = memory_bytes
        self._workers: dict[int, Output] = {}
        self._own_children = kernel.children()
        self._allowance = LineAllowance()
        self._selector = selectors.DefaultSelector()
        self._alarm, self._alarmed = socket.socketpair()

    def run(self) -> None:
        """Serve until the host is gone; then end every worker."""
        self._alarm.setblocking(False)
        self._alarmed.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._alarmed.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(self._alarm, selectors.EVENT_READ)
        try:
            while self._turn():
                pass
        except (BrokenPipeError, ConnectionError):
            pass
        finally:
            self._end_all()

    def _turn(self) -> bool:
        for key, _ in self._selector.select():
            if key.fileobj is self._control:
                if not self._obey():
                    return False
            elif key.fileobj is self._alarm:
                self._drain_alarm()
                self._reap()
            elif isinstance(key.data, Output):
                self._listen(key.data)
        return True

    def _drain_alarm(self) -> None:
        try:
            while self._alarm.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _obey(self) -> bool:
        data, files, _, _ = socket.recv_fds(self._control, COMMAND.size, 2)
        while data and len(data) < COMMAND.size:
            data += self._control.recv(COMMAND.size - len(data))
        if not data:
            return False
        command, worker = COMMAND.unpack(data)
        if command == START:
            self._start(worker, files)
        elif command == KILL and worker in self._workers:
            _kill_group(self._workers[worker].pid)
        return True

    # ---- workers

    def _start(self, worker: int, files: list[int]) -> None:
        parent = os.getpid()
        try:
            if len(files) < 2:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # as recvmsg does not say
            connection, record = files
            reading, writing = os.pipe()
            files += (reading, writing)
            pid = os.fork()
        except OSError as error:
            for file in files:
                os.close(file)
            self._tell("no_room", worker=worker, message=f"cannot fork: {error}")
            return
        if pid == 0:
            self._be_worker(parent, connection, record, reading, writing)
        for file in (writing, connection, record):
            os.close(file)
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass  # it has done so itself, or is gone already
        os.set_blocking(reading, False)
        output = self._workers[worker] = Output(worker, pid, reading)
        self._selector.register(reading, selectors.EVENT_READ, output)
        self._tell("started", worker=worker, pid=pid)

    def _be_worker(self, parent: int, connection: int, record: int, reading: int, writing: int) -> None:
        """The rest of a worker's life, in the forked process."""
        try:
            os.setpgid(0, 0)
            kernel.die_with_parent(parent)
            kernel.offer_to_the_oom_killer()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._selector.close()
            for ours in (self._control, self._alarm, self._alarmed):
                ours.close()
            for output in self._workers.values():
                if output.listening:
                    os.close(output.pipe)
            os.close(reading)
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            os.close(writing)
            kernel.bound_memory(self._memory_bytes)
            self._begin(socket.socket(fileno=connection), record)
        except BaseException:  # the last words of a process that ends here
            sys.excepthook(*sys.exc_info())
            os._exit(70)
        finally:
            os._exit(0)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            output = next((output for output in self._workers.values() if output.pid == pid), None)
            if output is None:
                continue
            _kill_group(pid)
            del self._workers[output.worker]
            self._kill_strays()
            self._listen(output, most=16)
            self._stop_listening(output)
            code = os.waitstatus_to_exitcode(status)
            tail = output.tail.decode(errors="replace")
            self._tell("exited", worker=output.worker, status=code, tail=tail)

    def _kill_strays(self) -> None:
        """End what left its worker's process group and has outlived the worker."""
        known = {output.pid for output in self._workers.values()} | self._own_children
        for pid in kernel.children() - known:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    # ---- what they print

    def _listen(self, output: Output, most: int = 1) -> None:
        lines: list[bytes] = []
        while most and output.listening:
            most -= 1
            try:
                data = os.read(output.pipe, READ_BYTES)
            except BlockingIOError:
                break
            if data:
                lines += output.take(data)
            else:
                self._stop_listening(output)
        admitted = self._allowance.admit(lines)
        if admitted or (self._allowance.dropped and output.worker not in self._workers):
            dropped, self._allowance.dropped = self._allowance.dropped, 0
            text = [line.decode(errors="replace") for line in admitted]
            self._tell("printed", worker=output.worker, lines=text, dropped=dropped)

    def _stop_listening(self, output: Output) -> None:
        if output.listening:
            output.listening = False
            self._selector.unregister(output.pipe)
            os.close(output.pipe)

    def _tell(self, event: str, **fields: Any) -> None:
        tell(self._control, event, **fields)

    def _end_all(self) -> None:
        """Kill every descendant, and wait a moment for the kernel to agree."""
        for output in self._workers.values():
            _kill_group(output.pid)
        self._workers.clear()
        self._own_children.clear()
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            self._kill_strays()
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.002)
            except ChildProcessError:
                return


def tell(control: socket.socket, event: str, **fields: Any) -> None:
    """Send the host an event."""
    body = json.dumps({"event": event, **fields}).encode()
    control.sendall(EVENT_HEAD.pack(len(body)) + body)


def main(parent: int, file: int) -> None:
    """Read the configuration, import the environment, and serve."""
    kernel.die_with_parent(parent)
    kernel.adopt_orphans()
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    control = socket.socket(fileno=file)
    os.set_inheritable(file, False)
    (length,) = EVENT_HEAD.unpack(_read(control, EVENT_HEAD.size))
    configuration = json.loads(_read(control, length))
    try:
        from envmesh_host.isolation import worker

        begin = worker.prepare(configuration)
    except BaseException as error:  # whatever the author's module raises, the host is to hear of it
        reason = getattr(error, "reason", "ENVIRONMENT_RAISED")
        message = str(error.args[0]) if error.args else type(error).__name__
        with contextlib.suppress(OSError):
            tell(control, "refused", reason=reason, message=message, detail="")
        return
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError):  # where the host has gone meanwhile, the next read says so
        tell(control, "ready")
    ForkServer(control, begin, configuration["memory_bytes"]).run()


def _read(control: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = control.recv(count - len(data))
        if not more:
            os._exit(0)
        data += more
    return data


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
