"""A network that can be broken: a TCP proxy in front of one server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Self

__all__ = ["Proxy"]

CHUNK = 256 * 1024


class Link:
    """One connection through the proxy, as a pair of streams."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter):
        self.client = client
        self.server = server

    def reset(self) -> None:
        """End both sides at once, by RST and not by FIN."""
        for writer in (self.client, self.server):
            with contextlib.suppress(OSError, AttributeError):
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    def half_close(self) -> None:
        """Say to the server that the client has nothing more to say, which is not true."""
        with contextlib.suppress(OSError, RuntimeError):
            self.server.write_eof()


class Proxy:
    """Passes bytes on to ``upstream()``, asked at each connection; an empty address is nobody.

    Bytes are never lost within a connection, as TCP loses none: they are held while the proxy is ``cut``, and pass
    when it is healed, however stale they are by then; or the connection ends.
    """

    def __init__(self, upstream: Callable[[], str]):
        self._upstream = upstream
        self._server: asyncio.Server
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = {"to_server": asyncio.Event(), "to_client": asyncio.Event()}
        self.delay = 0.0
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self.heal()
        self._server = await asyncio.start_server(self._accept, sock=self._socket, limit=CHUNK)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)

    # ---- what can happen to a network

    def cut(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Let nothing through, in one direction or both; nobody is told."""
        if to_server:
            self._open["to_server"].clear()
        if to_client:
            self._open["to_client"].clear()

    def heal(self) -> None:
        """Let everything through again, what was held first."""
        for gate in self._open.values():
            gate.set()
        self.delay = 0.0

    def reset(self) -> None:
        """End every connection by RST."""
        for link in list(self._links):
            link.reset()

    def half_close(self) -> None:
        """End one direction of every connection."""
        for link in list(self._links):
            link.half_close()

    # ---- passing bytes

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._open["to_server"].wait()
                host, _, port = self._upstream().rpartition(":")
                if port:
                    await self._join(
                        reader, writer, *await asyncio.open_connection(host, int(port), limit=CHUNK)
                    )
        except asyncio.CancelledError:  # the proxy ends; asyncio would report it of a connection's task
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
                    server_reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:  # fmt: skip
        link = Link(writer, server)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, server, "to_server"), name="chaos-to-server")
                group.create_task(self._pass(server_reader, writer, "to_client"), name="chaos-to-client")
        finally:
            self._links.discard(link)
            server.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        gate = self._open[way]
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await gate.wait()
                writer.write(data)
                await writer.drain()
            await gate.wait()
            writer.write_eof()
