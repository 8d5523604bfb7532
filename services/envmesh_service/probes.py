"""The HTTP port that probes ask: health, and nothing else.

A kubelet's gRPC probe speaks no TLS, so it is asked here: ``/live``, ``/ready`` and ``/accepting`` answer 200 or 503,
everything else 404. The port runs on the process's own event loop, so a process that is stuck does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from envmesh_service.rpc import BindError, Health

__all__ = ["ProbePort"]

_log = logging.getLogger(__name__)

_PATIENCE = 5.0
"""Seconds in which a probe must have said what it wants."""
_MOST_BYTES = 8192
_MOST_PROBES = 64


class ProbePort:
    """Answers probes from ``health`` while it is open."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._server: asyncio.Server | None = None
        self._open = 0
        self.port = 0

    async def start(self, listen: str) -> None:
        """Open the port, host:port; port 0 picks one.

        Raises:
            BindError: it cannot be had.
        """
        host, _, port = listen.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._answer, host.strip("[]") or "127.0.0.1", int(port), limit=_MOST_BYTES
            )
        except OSError as error:
            raise BindError(f"cannot answer probes on {listen}: {error.strerror or error}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _MOST_PROBES:
                async with asyncio.timeout(_PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._reply(head))
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # whoever asks so is no probe
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _reply(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        state = self._health.states.get(path.removeprefix("/")) if path.startswith("/") else None
        if method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", "GET is right\n"
        elif state is None:
            status, body = "404 Not Found", "there are /live, /ready and /accepting\n"
        else:
            status, body = ("200 OK", "yes\n") if state else ("503 Service Unavailable", "no\n")
        lines = (
            f"HTTP/1.1 {status}",
            "Content-Type: text/plain",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return ("\r\n".join((*lines, "", "")) + ("" if method == b"HEAD" else body)).encode()
