"""Hosts as processes of this machine: what ``envmesh up --autoscale`` acts through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from envmesh_autoscaler.observation import Instance, Observation
from envmesh_autoscaler.pools import ScaledPool

__all__ = ["Launcher", "ProcessBackend"]


class Launcher(Protocol):
    """Starts and ends processes."""

    def start(self, pool: str, host_id: str, ready: Callable[[], None], ended: Callable[[], None]) -> None:
        """Start a host under this id. ``ready`` is called when it serves, ``ended`` when it is no more."""
        ...

    def end(self, host_id: str) -> None:
        """Ask a host to end."""
        ...


@dataclass(slots=True)
class _Host:
    pool: str
    started_at: float
    ready_at: float | None = None
    marked: bool = False
    sealed: bool = False
    going: bool = False


class ProcessBackend:
    """Each host is one process; which one ends is ours to say."""

    leading = True

    def __init__(self, launcher: Launcher, clock: Callable[[], float], new_id: Callable[[str], str]) -> None:
        self._launcher, self._clock, self._new_id = launcher, clock, new_id
        self._hosts: dict[str, _Host] = {}
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Nothing is to be watched: processes tell by themselves."""

    def observe(self, pool: ScaledPool, now: float) -> Observation:
        """The pool's processes."""
        hosts = {h: host for h, host in self._hosts.items() if host.pool == pool.name}
        staying = {h: host for h, host in hosts.items() if not host.going}
        instances = tuple(
            Instance(
                host_id=host_id,
                name=host_id,
                ready=host.ready_at is not None,
                ready_for=now - host.ready_at if host.ready_at is not None else 0.0,
                start_seconds=host.ready_at - host.started_at if host.ready_at is not None else None,
                ours=host.marked,
                sealed=host.sealed,
            )
            for host_id, host in staying.items()
        )
        return Observation(
            replicas=len(staying), instances=instances, going=frozenset(hosts.keys() - staying.keys())
        )

    async def mark(self, pool: ScaledPool, hosts: Sequence[str]) -> None:
        """Remember whose drain it is."""
        for host in self._there(hosts).values():
            host.marked = True

    async def unmark(self, pool: ScaledPool, hosts: Sequence[str]) -> None:
        """Its drain is taken back."""
        for host in self._there(hosts).values():
            host.marked = host.sealed = False

    async def seal(self, pool: ScaledPool, hosts: Sequence[str]) -> None:
        """It is empty."""
        for host in self._there(hosts).values():
            host.sealed = True

    async def tend(self, pool: ScaledPool) -> None:
        """Processes are not rolled."""

    async def scale(self, pool: ScaledPool, replicas: int, gone: Sequence[str]) -> None:
        """End those that are counted out, and start what is missing."""
        for host_id, host in self._there(gone).items():
            host.going = True
            self._launcher.end(host_id)
        staying = sum(host.pool == pool.name and not host.going for host in self._hosts.values())
        for _ in range(replicas - staying):
            self._start(pool.name)

    async def announce(self, pool: ScaledPool, before: int, replicas: int, reason: str) -> None:
        """The log is where operators of processes look."""

    def _there(self, hosts: Sequence[str]) -> dict[str, _Host]:
        """Those of them that have not ended meanwhile, as they may at any time; the others need nothing more."""
        return {host_id: self._hosts[host_id] for host_id in hosts if host_id in self._hosts}

    def _start(self, pool: str) -> None:
        host_id = self._new_id(pool)
        host = self._hosts[host_id] = _Host(pool, self._clock())

        def ready() -> None:
            host.ready_at = host.ready_at if host.ready_at is not None else self._clock()
            self.changed.set()

        def ended() -> None:
            self._hosts.pop(host_id, None)
            self.changed.set()

        self._launcher.start(pool, host_id, ready, ended)
