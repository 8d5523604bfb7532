"""What a host does by the clock: let slots lapse and episodes expire, keep callers' deadlines, show signs of life."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.copy import EpisodeCopy
from envmesh_host.engine import Engine
from envmesh_host.servicer import EnvironmentServicer
from envmesh_host.settings import HostSettings
from envmesh_host.testimony import TURNED

__all__ = ["StuckPatience", "Upkeep", "expiry"]

log = logging.getLogger("envmesh.host")

TICK_SECONDS = 0.1
STORE_SWEEP_SECONDS = 600.0


def expiry(copy: EpisodeCopy, settings: HostSettings, now: float) -> str | None:
    """Why this copy has to go now, or None (pure). A copy of a stream has had a handle, one of unary calls never."""
    if now - copy.born > settings.episode_age:
        return f"the episode is older than {settings.episode_age:g} s (episode_age)"
    if copy.connection is not None or copy.running is not None:
        return None
    idle = now - copy.idle_since
    if copy.handle and idle > settings.reattach_window:
        return f"no client came back within {settings.reattach_window:g} s (reattach_window)"
    if not copy.handle and idle > settings.unary_idle:
        return f"no call came for {settings.unary_idle:g} s (unary_idle)"
    return None


class StuckPatience:
    """For how long code that does not return, and cannot be ended, may hold half of an environment's slots (pure)."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._since: dict[str, float] = {}

    def look(self, environment: str, stuck: int, slots: int, now: float) -> str | None:
        """Why the host should be started anew, or None. ``slots`` is how many this environment may have."""
        if 2 * stuck < slots or not stuck:
            self._since.pop(environment, None)
            return None
        if now - self._since.setdefault(environment, now) < self._seconds:
            return None
        return f"code that does not return holds {stuck} of {slots} slots of {environment}"


class Upkeep:
    """The host's clockwork. ``on_stuck`` is told why the host should be started anew, with every sweep while it is
    so."""

    def __init__(self, engine: Engine, servicer: EnvironmentServicer, settings: HostSettings):
        self._engine = engine
        self._servicer = servicer
        self._settings = settings
        self._swept = 0.0
        self._stored_swept = time.monotonic()
        self._doubtful: set[EpisodeCopy] = set()
        self._patience = StuckPatience(settings.stuck_patience)
        self.on_sweep: Callable[[], None] = lambda: None
        self.on_stuck: Callable[[str], None] = lambda why: None

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """One look at the clock."""
        self._fence(now - self._servicer.last_tick[0])
        self._servicer.last_tick[0] = now
        self._doubt(now)
        self._engine.watch[TURNED] = time.perf_counter()
        for connection in self._servicer.connections.values():
            if connection.deadlines:
                connection.overdue(now)
        for connection_id, writer in self._servicer.writers.items():
            window = self._servicer.connections[connection_id].liveness_window
            if now - writer.beaten_at >= min(1.0, window / 4):  # a third is promised, a tick may be late
                writer.beaten_at = now
                writer.heartbeat_due = True
                writer.wake()
        self._engine.go_on_saving()
        if now - self._swept >= 1.0:
            self._swept = now
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        engine = self._engine
        for holding, count in engine.slots.lapse(engine.clock(), self._settings.lease_idle):
            for connection in self._servicer.connections.values():
                connection.slots_returned(holding, count)
            engine.on_slot_freed()
        self._count_stuck(now)
        for copy in list(engine.episodes.values()):
            copy.compact()
            why = expiry(copy, self._settings, engine.clock())
            if why is not None:
                refusal = Refusal(why, reason="EXPIRED")
                if copy.connection is not None:
                    copy.connection.notify(pb.NOTICE_KIND_EXPIRED, (copy,), refusal)
                    if not copy.ended:  # its client loses it; one that nobody came back to is only closed
                        engine.abort(copy, refusal)
                engine.close(copy, refusal)
        if engine.store is not None and now - self._stored_swept >= STORE_SWEEP_SECONDS:
            self._stored_swept = now
            engine.store.sweep(time.time())
        if not self._settings.broker:
            engine.slots.take_ended()
        self.on_sweep()

    def _count_stuck(self, now: float) -> None:
        slots = self._engine.slots
        slots.stuck = 0
        for key, hosted in self._engine.hosted.items():
            if hosted.runner is None:
                continue
            stuck = hosted.runner.stuck
            slots.stuck += stuck
            if hosted.runner.ends_code:
                continue
            why = self._patience.look(key, stuck, slots.bounds.get(key, slots.slots), now)
            if why is not None:
                self.on_stuck(why)

    def _doubt(self, now: float) -> None:
        """Tell those who carry commands out up to when they may begin one, and whose not (``isolation/breath.py``)."""
        connections = self._servicer.connections.values()
        for connection in connections:
            doubted = connection.in_doubt(now)
            if doubted and not connection.doubted:
                for copy in connection.bindings.values():
                    if copy.running is not None and copy.environment.runner is not None:
                        copy.environment.runner.hold(copy.seat, True)
                        self._doubtful.add(copy)
            connection.doubted = doubted
        for copy in list(self._doubtful):
            closed = self._engine.episodes.get(copy.episode_id) is not copy
            if closed or (copy.connection is not None and not copy.connection.in_doubt(now)):
                self._doubtful.discard(copy)
                if not closed:
                    copy.environment.runner.hold(copy.seat, False)
        windows = [connection.liveness_window for connection in connections]
        until = now + min(windows, default=self._settings.liveness_window)
        for hosted in self._engine.hosted.values():
            if hosted.runner is not None:
                hosted.runner.breathe(until)

    def _fence(self, pause: float) -> None:
        """After a pause of this process, clients whose window it exceeds must confirm their episodes."""
        suspicious = [c for c in self._servicer.connections.values() if pause > c.liveness_window]
        for connection in suspicious:
            connection.challenge += 1
        if suspicious:
            log.warning("a pause of %.1f s: %d clients must confirm their episodes", pause, len(suspicious))
