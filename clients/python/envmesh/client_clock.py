"""A client's clock: keeps callers' deadlines and sends signs of life, without a timer a command."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from envmesh.errors import MeshUnavailable

if TYPE_CHECKING:
    from envmesh.mesh import Mesh

__all__ = ["ClientClock"]

log = logging.getLogger("envmesh.client")

TICK_SECONDS = 0.25


class ClientClock:
    """``now`` is the event loop's time at the last tick."""

    def __init__(self, mesh: Mesh):
        self.now = 0.0
        self._mesh = mesh
        self._beaten = 0.0

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._tick(asyncio.get_running_loop().time())
            except Exception as error:  # a defect; without a clock everybody would wait for ever
                log.error("a defect at a tick of the clock", exc_info=error)

    def _tick(self, now: float) -> None:
        mesh = self._mesh
        paused, self.now = now - self.now, now
        window = mesh.settings.liveness_window
        if paused > window / 2:  # what came meanwhile is not read yet
            for connection in mesh.open_connections():
                connection.heard_at = now
        for connection in mesh.open_connections():
            if now - connection.heard_at > connection.liveness_window:
                connection.give_up(MeshUnavailable(f"host {connection.address} has been silent for too long"))
        if now - self._beaten >= window / 4:
            self._beaten = now
            for connection in mesh.open_connections():
                connection.heartbeat()
        for episode in list(mesh.episodes):
            if episode._waiter is not None and now > episode.deadline and not episode.away_since:
                episode.overdue()
        mesh.recovery.tick(now)
