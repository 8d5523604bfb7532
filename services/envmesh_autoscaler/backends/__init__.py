"""What the plan acts through: Kubernetes, or processes of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from envmesh_autoscaler.observation import Observation
from envmesh_autoscaler.pools import ScaledPool

__all__ = ["Backend", "BackendRefused"]


class BackendRefused(Exception):
    """Something could not be done now; the next plan sees to it, after ``retry_after`` seconds at the earliest."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Backend(Protocol):
    """Hosts as they are started and ended. Calls about one pool come one after the other."""

    changed: asyncio.Event
    """Set when something is seen."""

    @property
    def leading(self) -> bool:
        """Whether this process may act: of several autoscalers one leads."""
        ...

    async def run(self) -> None:
        """Keep seeing, until cancelled."""
        ...

    def observe(self, pool: ScaledPool, now: float) -> Observation | None:
        """The pool now; None: nothing is known of it yet."""
        ...

    async def mark(self, pool: ScaledPool, hosts: Sequence[str]) -> None:
        """These hosts are about to drain: when hosts go, they go first. Raises: BackendRefused."""
        ...

    async def unmark(self, pool: ScaledPool, hosts: Sequence[str]) -> None:
        """These hosts serve on: their drains were taken back. Raises: BackendRefused."""
        ...

    async def seal(self, pool: ScaledPool, hosts: Sequence[str]) -> None:
        """These hosts have sealed themselves: nothing protects them any more. Raises: BackendRefused."""
        ...

    async def tend(self, pool: ScaledPool) -> None:
        """Whatever else is to be seen to, such as the pace of a roll. Raises: BackendRefused."""
        ...

    async def scale(self, pool: ScaledPool, replicas: int, gone: Sequence[str]) -> None:
        """Have ``replicas`` hosts. ``gone`` are those that are counted out by it, none else. Raises: BackendRefused."""
        ...

    async def announce(self, pool: ScaledPool, before: int, replicas: int, reason: str) -> None:
        """Tell operators where they look that the number of hosts was changed, and why. Never raises."""
        ...
