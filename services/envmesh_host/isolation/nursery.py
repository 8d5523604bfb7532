"""Where a runner's worker processes come from: the host's end of a forkserver (see ``forkserver``)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from envmesh.errors import Refusal
from envmesh_host.isolation.forkserver import COMMAND, EVENT_HEAD, KILL, START

__all__ = ["Nursery", "Parent", "in_time"]

_Result = TypeVar("_Result")

log = logging.getLogger("envmesh.worker")

STARTS_AT_ONCE = 16
"""Forks asked for and not yet confirmed: each has two files in flight, and the kernel bounds those."""

BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
BOOT += "from envmesh_host.isolation.forkserver import main; main(int(sys.argv[2]), int(sys.argv[3]))"

ENVIRONMENT = {
    # One thread for linear algebra: there are many workers, and the number of threads changes the last bits of a sum.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # The order of a set of strings is the same in every worker, or a replay elsewhere could diverge.
    "PYTHONHASHSEED": "0",
}


class Parent(Protocol):
    """Who hears what becomes of the workers; all of it in the event loop."""

    def nursery_ready(self) -> None:
        """The environment's imports are done."""
        ...

    def nursery_lost(self, refusal: Refusal) -> None:
        """The forkserver has ended, and with it every worker; or it never began."""
        ...

    def worker_unborn(self, number: int, error: OSError) -> None:
        """There was no room for a worker that was asked for."""
        ...

    def worker_exited(self, number: int, status: int, last_words: str) -> None:
        """A worker ended: its exit code, or minus the signal's number."""
        ...


class Nursery:
    """A forkserver, from ``open`` until it is lost or closed; it may then be opened again."""

    def __init__(self, parent: Parent, key: str, configuration: Mapping[str, Any]):
        self._parent = parent
        self._key = key
        self._configuration = configuration
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._buffer = b""
        self._due: deque[tuple[int, socket.socket, int]] = deque()
        self._unconfirmed: set[int] = set()
        self._refusal: Refusal | None = None
        self._serving = False

    @property
    def process_id(self) -> int | None:
        """The forkserver's process, while it is open."""
        return self._process.pid if self._process else None

    def open(self) -> None:
        """Begin the forkserver. ``nursery_ready`` or ``nursery_lost`` follows; workers may be asked for at once.

        Raises:
            OSError: this machine has no room for it.
        """
        ours, theirs = socket.socketpair()
        search_path = [entry or str(Path.cwd()) for entry in sys.path]
        command = [
            sys.executable,
            "-c",
            BOOT,
            json.dumps(search_path),
            str(os.getpid()),
            str(theirs.fileno()),
        ]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={**ENVIRONMENT, **os.environ},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        body = json.dumps(self._configuration).encode()
        ours.sendall(EVENT_HEAD.pack(len(body)) + body)
        ours.setblocking(False)
        self._control, self._buffer, self._refusal = ours, b"", None
        self._serving = False
        asyncio.get_running_loop().add_reader(ours, self._read)
        self._send_due()

    def start_worker(self, number: int, connection: socket.socket, record: int) -> None:
        """Fork a worker; it gets both files, which are closed on this side."""
        self._due.append((number, connection, record))
        self._send_due()

    def kill_worker(self, number: int) -> None:
        """End a worker and its process group; ``worker_exited`` follows."""
        if self._control is not None:
            try:
                self._control.send(COMMAND.pack(KILL, number))
            except OSError:
                self._lose()

    def close(self) -> None:
        """End the forkserver and every worker, and wait until it is gone."""
        self._hang_up()
        for _, connection, record in self._due:
            connection.close()
            os.close(record)
        self._due.clear()
        self._unconfirmed.clear()
        if self._process is not None:
            if not self._serving:
                self._process.kill()  # deep in an import, it would not notice
            try:
                self._process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    # ---- the socket

    def _send_due(self) -> None:
        while self._due and self._control is not None and len(self._unconfirmed) < STARTS_AT_ONCE:
            number, connection, record = self._due.popleft()
            try:
                socket.send_fds(self._control, [COMMAND.pack(START, number)], [connection.fileno(), record])
            except OSError:
                self._due.appendleft((number, connection, record))
                self._lose()
                return
            self._unconfirmed.add(number)
            connection.close()
            os.close(record)

    def _read(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(256 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        while len(self._buffer) >= EVENT_HEAD.size:
            (length,) = EVENT_HEAD.unpack_from(self._buffer)
            end = EVENT_HEAD.size + length
            if len(self._buffer) < end:
                break
            body, self._buffer = self._buffer[EVENT_HEAD.size : end], self._buffer[end:]
            self._hear(json.loads(body))
        if not data:
            self._lose()

    def _hear(self, event: dict[str, Any]) -> None:
        match event:
            case {"event": "ready"}:
                self._serving = True
                self._parent.nursery_ready()
            case {"event": "started", "worker": number}:
                self._unconfirmed.discard(number)
                self._send_due()
            case {"event": "no_room", "worker": number, "message": message}:
                self._unconfirmed.discard(number)
                self._parent.worker_unborn(number, OSError(message))
                self._send_due()
            case {"event": "exited", "worker": number, "status": status, "tail": tail}:
                self._unconfirmed.discard(number)
                self._parent.worker_exited(number, status, tail)
                self._send_due()
            case {"event": "printed", "worker": number, "lines": lines, "dropped": dropped}:
                where = {"environment": self._key, "worker": number}
                for line in lines:
                    log.info(line, extra=where)
                if dropped:
                    log.warning(
                        "it printed more than is passed on", extra={**where, "lines_dropped": dropped}
                    )
            case {"event": "refused", "reason": reason, "message": message, "detail": detail}:
                self._refusal = Refusal(message, reason=reason, detail=detail)

    def _hang_up(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None

    def _lose(self) -> None:
        """The forkserver is gone. The parent hears of it in a turn of its own, not while it begins or ends a worker."""
        if self._control is not None:
            self._hang_up()
            asyncio.get_running_loop().call_soon(self._lost)

    def _lost(self) -> None:
        process = self._process
        self.close()
        status = "" if process is None else f" (exit status {process.returncode})"
        lost = Refusal(
            f"the process that workers of {self._key} start from ended{status}", reason="WORKER_LOST"
        )
        self._parent.nursery_lost(self._refusal or lost)


async def in_time(future: asyncio.Future[_Result], limit: float, what: str) -> _Result:
    """What a future brings, within so many seconds. Raises: Refusal LIMIT_EXCEEDED."""
    try:
        async with asyncio.timeout(limit):
            return await future
    except TimeoutError:
        raise Refusal(f"{what} took longer than {limit:g} s", reason="LIMIT_EXCEEDED") from None
