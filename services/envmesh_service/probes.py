"""The HTTP port that probes ask: health, and nothing else.

A kubelet's gRPC probe speaks no TLS, so it is asked here: ``/live``, ``/ready`` and ``/accepting`` answer 200 or 503,
everything else 404.
"""

from __future__ import annotations

import asyncio

from envmesh_service.http_port import HttpPort, Request, reply
from envmesh_service.rpc import Health

__all__ = ["ProbePort"]


class ProbePort(HttpPort):
    """Answers probes from ``health`` while it is open."""

    purpose = "answer probes"

    def __init__(self, health: Health) -> None:
        super().__init__()
        self._health = health

    async def answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Yes, no, or what there is to ask for."""
        state = self._health.states.get(request.path[1:]) if request.path.startswith("/") else None
        if state is None:
            status, body = "404 Not Found", b"there are /live, /ready and /accepting\n"
        else:
            status, body = ("200 OK", b"yes\n") if state else ("503 Service Unavailable", b"no\n")
        writer.write(reply(status, body, head=request.method == "HEAD"))
