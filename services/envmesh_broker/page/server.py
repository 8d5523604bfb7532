"""The port of the live page: a few files, and two streams of server-sent events.

``/events`` sends the picture once a second, made once for all who look; ``/follow`` the steps of one episode as they
happen. Nothing can be changed from here. It runs on the broker's own loop, for the picture is in its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from envmesh.v1 import fleet_pb2
from envmesh_broker.page import picture
from envmesh_broker.page.history import History
from envmesh_broker.page.watches import Watches
from envmesh_service.clock import Clock
from envmesh_service.pages import page_file
from envmesh_service.rpc import BindError

__all__ = ["LivePage"]

_log = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds in which a browser must have said what it wants, and in which it must take what it is sent."""
_MOST_BYTES = 16_384
_MOST_OPEN = 64
_INTERVAL = 1.0

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


class LivePage:
    """The page, while it is open. ``fleet`` gives the picture, ``reports`` each host's last report, ``place`` the
    mesh's address; with ``values`` the actions and observations of episodes are shown to whoever asks for them."""

    def __init__(
        self,
        fleet: Callable[[], fleet_pb2.Fleet],
        reports: Callable[[], dict[str, fleet_pb2.HostReport]],
        clock: Clock,
        *,
        place: Callable[[], str],
        values: bool,
    ) -> None:
        self.watches = Watches()
        self.history = History()
        self.port = 0
        self._fleet, self._reports, self._clock = fleet, reports, clock
        self._place, self._values = place, values
        self._server: asyncio.Server | None = None
        self._loopback = True
        self._serving: set[asyncio.Task[None]] = set()
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
        """Open the port, host:port; port 0 picks one.

        Raises:
            BindError: it cannot be had.
        """
        host, _, port = listen.rpartition(":")
        self._loopback = host in ("", *_LOOPBACK)
        try:
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]") or "127.0.0.1", int(port), limit=_MOST_BYTES
            )
        except OSError as error:
            raise BindError(f"cannot show the page on {listen}: {error.strerror or error}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def run(self) -> None:
        """Look once a second, for ever."""
        while True:
            self._look()
            await asyncio.sleep(_INTERVAL)

    async def stop(self) -> None:
        """Close the port, and send away whoever looks."""
        if self._server is not None:
            self._server.close()
            self._server = None
            for task in self._serving:
                task.cancel()
            if self._serving:
                await asyncio.wait(self._serving, timeout=1.0)

    def _look(self) -> None:
        reports = self._reports()
        self.history.observe(self._clock(), reports)
        self.watches.assign(reports)
        if self._lookers:
            self._now = _event("now", picture.now(self._fleet(), self.history, self._clock()))
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    # ---- HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            if len(self._serving) > _MOST_OPEN:
                writer.write(_reply("503 Service Unavailable", b"too many look at once\n"))
                return
            async with asyncio.timeout(_PATIENCE):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            await self._answer(head, reader, writer)
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # whoever asks so is no browser, or has gone
        except asyncio.CancelledError:
            pass  # the broker ends, and so does this
        finally:
            self._serving.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, *lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        address = urlsplit(rest.partition(" ")[0])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if method not in ("GET", "HEAD"):
            writer.write(_reply("405 Method Not Allowed", b"GET is right\n"))
        elif self._loopback and headers.get("host", "").rpartition(":")[0] not in _LOOPBACK:
            # a page from elsewhere whose name was made to point here must not read this one
            writer.write(_reply("421 Misdirected Request", b"ask for it as 127.0.0.1 or localhost\n"))
        elif address.path in self._files:
            kind, body = self._files[address.path]
            writer.write(_reply("200 OK", b"" if method == "HEAD" else body, kind, len(body)))
        elif address.path == "/events":
            await self._stream(reader, writer, self._pictures())
        elif address.path == "/follow":
            await self._follow(reader, writer, parse_qs(address.query))
        else:
            writer.write(_reply("404 Not Found", b"there is the page, at /\n"))
        async with asyncio.timeout(_PATIENCE):
            await writer.drain()

    async def _follow(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, query: dict[str, list[str]]
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
                    async with asyncio.timeout(_PATIENCE):
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
                async with asyncio.timeout(_PATIENCE):
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
    return (
        f"event: {name}\ndata: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
    )


def _reply(status: str, body: bytes, kind: str = "text/plain", length: int | None = None) -> bytes:
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body) if length is None else length}",
        f"Content-Security-Policy: {_POLICY}",
        "X-Content-Type-Options: nosniff",
        "Referrer-Policy: no-referrer",
        "Cache-Control: no-store",
        "Connection: close",
    )
    return ("\r\n".join((*lines, "", ""))).encode() + body
