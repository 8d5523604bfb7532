"""A small HTTP port on the process's own event loop, for what a probe or a browser asks: GET, one request a connection.

A process that is stuck does not answer, which is what a probe wants to know.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from envmesh_service.rpc import BindError

__all__ = ["PATIENCE", "HttpPort", "Request", "reply"]

PATIENCE = 10.0
"""Seconds in which somebody must have said what he wants, and in which he must take what he is sent."""
_MOST_BYTES = 16_384
_MOST_OPEN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for. Names of ``headers`` are in lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]


class HttpPort(abc.ABC):
    """Answers while it is open; ``purpose`` says what for, behind "cannot"."""

    purpose = "answer"

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._silent: dict[asyncio.Task[None], None] = {}
        """Those of whom nothing was read yet, the oldest first."""

    @abc.abstractmethod
    async def answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Write the reply to a GET or HEAD."""

    async def start(self, listen: str) -> None:
        """Open the port, host:port; port 0 picks one.

        Raises:
            BindError: it cannot be had.
        """
        host, _, port = listen.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]") or "127.0.0.1", int(port), limit=_MOST_BYTES
            )
        except OSError as error:
            raise BindError(f"cannot {self.purpose} on {listen}: {error.strerror or error}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port, and send away whoever is there."""
        if self._server is not None:
            self._server.close()
            self._server = None
            for task in self._serving:
                task.cancel()
            if self._serving:
                await asyncio.wait(self._serving, timeout=1.0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            if len(self._serving) > _MOST_OPEN and not self._send_away_who_says_nothing():
                writer.write(reply("503 Service Unavailable", b"too many ask at once\n"))
                return
            self._silent[task] = None
            async with asyncio.timeout(PATIENCE):
                request = _read((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            self._silent.pop(task, None)
            if request.method in ("GET", "HEAD"):
                await self.answer(request, reader, writer)
            else:
                writer.write(reply("405 Method Not Allowed", b"GET is right\n"))
            async with asyncio.timeout(PATIENCE):
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
            pass  # whoever asks so is no probe and no browser, or has gone
        except asyncio.CancelledError:
            pass  # the process ends, or another needs the room, and so this ends
        finally:
            self._serving.discard(task)
            self._silent.pop(task, None)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    def _send_away_who_says_nothing(self) -> bool:
        """Make room by ending the connection that has said nothing for longest. Returns whether there was one."""
        oldest = next(iter(self._silent), None)
        if oldest is None:
            return False
        del self._silent[oldest]
        oldest.cancel()
        return True


def reply(
    status: str, body: bytes, *, head: bool = False, kind: str = "text/plain", headers: tuple[str, ...] = ()
) -> bytes:
    """A whole reply; with ``head`` what a HEAD gets of it."""
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *headers,
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode() + (b"" if head else body)


def _read(head: str) -> Request:
    line, *lines = head.split("\r\n")
    method, _, rest = line.partition(" ")
    address = urlsplit(rest.partition(" ")[0])  # ValueError: it is no address
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    return Request(method=method, path=address.path, query=parse_qs(address.query), headers=headers)
