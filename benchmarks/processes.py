"""A peer's two processes: the server on one core, the client on another, orders to the client a line at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers import Peer
from benchmarks.setup_peers import python_of

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 5.0
LONGEST_ANSWER = 1 << 26


class PeerFailed(Exception):
    """A peer did not start, did not answer in time, or met an error."""


class PeerProcesses:
    """The processes of one peer, from ``async with`` until its end.

    ``environment`` is added to the variables of both processes. The cores are the first and the last that this process
    may use, which are the same one where there is but one.
    """

    def __init__(self, peer: Peer, environment: Mapping[str, str]):
        self.peer = peer
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        cores = sorted(os.sched_getaffinity(0))
        self._server_core, self._client_core = cores[0], cores[-1]
        self._server: asyncio.subprocess.Process | None = None
        self._client: asyncio.subprocess.Process | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the processes

    async def __aenter__(self) -> Self:
        try:
            port = free_port()
            self._server = await self._start("serve", port, self._server_core)
            await self._until_listening(port)
            self._client = await self._start("play", port, self._client_core)
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def order(self, timeout: float, **order: Any) -> dict[str, Any]:
        """Have the client do something, and return its answer. Raises: PeerFailed."""
        assert self._client is not None
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(json.dumps(order).encode() + b"\n")
        try:
            line = await asyncio.wait_for(self._client.stdout.readline(), timeout)
        except TimeoutError:
            raise PeerFailed(f"no answer to {order} within {timeout:g} s\n{self.log_tail()}") from None
        if not line:
            raise PeerFailed(f"the client ended at {order}\n{self.log_tail()}")
        answer: dict[str, Any] = json.loads(line)
        if error := answer.get("error"):
            raise PeerFailed(f"{order}: {error.strip().splitlines()[-1]}\n{error}")
        return answer

    async def stop(self) -> None:
        """End both processes; those that will not are killed."""
        for process in (self._client, self._server):
            if process is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._log.close()

    def log_tail(self, size: int = 2000) -> str:
        """The end of what both processes said on their standard error."""
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - size))
        return self._log.read().decode(errors="replace")

    async def _start(self, role: str, port: int, core: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            python_of(self.peer), "-m", "benchmarks.peers", role, self.peer.name, "--port", str(port),
            "--core", str(core), cwd=ROOT, env=self._environment, limit=LONGEST_ANSWER,
            stdin=asyncio.subprocess.PIPE if role == "play" else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if role == "play" else self._log, stderr=self._log,
        )  # fmt: skip

    async def _until_listening(self, port: int) -> None:
        assert self._server is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                while self._server.returncode is None:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise PeerFailed(
                f"the server does not listen within {START_SECONDS:g} s\n{self.log_tail()}"
            ) from None
        raise PeerFailed(f"the server ended with {self._server.returncode}\n{self.log_tail()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
