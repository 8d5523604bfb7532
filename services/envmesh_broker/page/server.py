"""The port of the live page: a few files, and two streams of server-sent events.

``/events`` sends the picture once a second, made once for all who look; ``/follow`` the steps of one episode as they
happen. Nothing can be changed from here. It runs on the broker's own loop, for the picture is in its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from envmesh.v1 import fleet_pb2
from envmesh_broker.page import picture
from envmesh_broker.page.history import History
from envmesh_broker.page.watches import Watches
from envmesh_service.clock import Clock
from envmesh_service.http_port import PATIENCE, HttpPort, Request, reply
from envmesh_service.pages import page_file

__all__ = ["LivePage"]

_log = logging.getLogger(__name__)

_INTERVAL = 1.0

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    f"Content-Security-Policy: {_POLICY}",
    "X-Content-Type-Options: nosniff",
    "Referrer-Policy: no-referrer",
    "Cache-Control: no-store",
)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


class LivePage(HttpPort):
    """The page, while it is open. ``fleet`` gives the picture, ``reports`` each host's last report, ``place`` the
    mesh's address; with ``values`` the actions and observations of episodes are shown to whoever asks for them."""

    purpose = "show the page"

    def __init__(
        self,
        fleet: Callable[[], fleet_pb2.Fleet],
        reports: Callable[[], dict[str, fleet_pb2.HostReport]],
        clock: Clock,
        *,
        place: Callable[[], str],
        values: bool,
    ) -> None:
        super().__init__()
        self.watches = Watches()
        self.history = History()
        self._fleet, self._reports, self._clock = fleet, reports, clock
        self._place, self._values = place, values
        self._loopback = True
        self._lookers = 0
        self._now = b""
        self._turned = asyncio.Event()
        self._files = _files()

    def hear(self, name: str, report: fleet_pb2.HostReport) -> None:
        """A host has reported."""
        if report.failures:
            self.history.note_failures(name, report, self._clock())
        if report.watched:
            self.watches.hear(report)

    async def start(self, listen: str) -> None:
        """Open the port, host:port; port 0 picks one. Raises: BindError."""
        self._loopback = listen.rpartition(":")[0] in ("", *_LOOPBACK)
        await super().start(listen)

    async def run(self) -> None:
        """Look once a second, for ever."""
        while True:
            self._look()
            await asyncio.sleep(_INTERVAL)

    def _look(self) -> None:
        reports = self._reports()
        self.history.observe(self._clock(), reports)
        self.watches.assign(reports)
        if self._lookers:
            self._now = _event("now", picture.now(self._fleet(), self.history, self._clock()))
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    # ---- HTTP

    async def answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """A file, a stream of events, or why not."""
        if self._loopback and request.headers.get("host", "").rpartition(":")[0] not in _LOOPBACK:
            # a page from elsewhere whose name was made to point here must not read this one
            writer.write(_reply("421 Misdirected Request", b"ask for it as 127.0.0.1 or localhost\n"))
        elif request.path in self._files:
            kind, body = self._files[request.path]
            writer.write(_reply("200 OK", body, kind, head=request.method == "HEAD"))
        elif request.path == "/events":
            await self._stream(reader, writer, self._pictures())
        elif request.path == "/follow":
            await self._follow(request.query, reader, writer)
        else:
            writer.write(_reply("404 Not Found", b"there is the page, at /\n"))

    async def _follow(
        self,
        query: Mapping[str, list[str]],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        environment = query.get("environment", [""])[0][:300]
        try:
            episode_id = bytes.fromhex(query.get("episode", [""])[0])
        except ValueError:
            episode_id = b"?"
        if bool(environment) == bool(episode_id) or len(episode_id) not in (0, 16):
            words = b"either environment=name@version or episode=32 hexadecimal digits is right\n"
            writer.write(_reply("400 Bad Request", words))
            return
        values = self._values and query.get("values") == ["1"]
        follower = self.watches.follow(environment=environment, episode_id=episode_id, values=values)
        if follower is None:
            writer.write(_reply("503 Service Unavailable", b"too many follow an episode\n"))
            return
        self.watches.assign(self._reports())

        async def told() -> AsyncIterator[bytes]:
            while True:
                while follower.told:
                    yield _event("steps", picture.steps(follower.told.popleft()))
                follower.ready.clear()
                try:
                    async with asyncio.timeout(PATIENCE):
                        await follower.ready.wait()
                except TimeoutError:
                    yield b": nothing yet\n\n"

        try:
            await self._stream(reader, writer, told())
        finally:
            self.watches.leave(follower)

    async def _pictures(self) -> AsyncIterator[bytes]:
        self._lookers += 1
        try:
            yield _event(
                "beginning",
                picture.beginning(self.history) | {"values": self._values, "place": self._place()},
            )
            yield _event("now", picture.now(self._fleet(), self.history, self._clock()))
            while True:
                await self._turned.wait()
                yield self._now
        finally:
            self._lookers -= 1

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, events: AsyncIterator[bytes]
    ) -> None:
        """Send events until the browser hangs up, or does not take them."""
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
            b"Connection: close\r\n\r\n"
        )
        gone = asyncio.get_running_loop().create_task(reader.read(1), name="page-hang-up")
        sending = asyncio.get_running_loop().create_task(self._send(writer, events), name="page-events")
        try:
            await asyncio.wait((gone, sending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (gone, sending):
                task.cancel()
            await asyncio.wait((gone, sending))
            for task in (gone, sending):
                if not task.cancelled() and (error := task.exception()) is not None:
                    _log.debug("somebody who looked is gone", extra={"why": str(error)})

    async def _send(self, writer: asyncio.StreamWriter, events: AsyncIterator[bytes]) -> None:
        async with contextlib.aclosing(events):  # type: ignore[type-var]  # they are generators
            async for event in events:
                writer.write(event)
                async with asyncio.timeout(PATIENCE):
                    await writer.drain()


def _files() -> dict[str, tuple[str, bytes]]:
    package = "envmesh_broker.page"
    style = page_file("envmesh_service.pages", "base.css") + page_file(package, "page.css")
    return {
        "/": ("text/html; charset=utf-8", page_file(package, "page.html").encode()),
        "/page.css": ("text/css; charset=utf-8", style.encode()),
        "/page.js": ("text/javascript; charset=utf-8", page_file(package, "page.js").encode()),
    }


def _event(name: str, content: dict[str, Any]) -> bytes:
    data = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode()


def _reply(status: str, body: bytes, kind: str = "text/plain", *, head: bool = False) -> bytes:
    return reply(status, body, kind=kind, head=head, headers=_HEADERS)
