"""``envmesh up --autoscale``: the autoscaler, and processes of this machine as what it acts through."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from envmesh.access import Access
from envmesh_autoscaler.autoscaler import Autoscaler, Fleet
from envmesh_autoscaler.backends.processes import ProcessBackend
from envmesh_autoscaler.demand import PoolPolicy
from envmesh_autoscaler.meters import Meters
from envmesh_autoscaler.pools import ScaledPool
from envmesh_cli.child import Backoff, Child, ChildFailed, Line
from envmesh_cli.pools import PoolPlan
from envmesh_service.clock import monotonic
from envmesh_service.metrics import Exporter, Registry

__all__ = ["LocalAutoscaler", "write_pools"]

PAUSE_AFTER_FAILURE = 5.0
"""Seconds before a host that failed is replaced, so that code that is broken is not started again and again."""


def write_pools(path: Path, environments: Mapping[str, Sequence[str]], policy: PoolPolicy) -> None:
    """Tell the broker of pools that may have no host, for what is asked of them waits."""
    pools = [
        {"name": name, "environments": list(keys), "max_hosts": policy.max_hosts}
        for name, keys in environments.items()
    ]
    path.write_text(json.dumps(pools))


class LocalAutoscaler:
    """Starts and ends the hosts of a local mesh as the plan says. ``make`` makes a host's child, ``spawn`` keeps a task
    alive, ``children`` is where the mesh lists its processes."""

    def __init__(
        self,
        environments: Mapping[str, Sequence[str]],
        policy: PoolPolicy,
        plans: Sequence[PoolPlan],
        *,
        make: Callable[[PoolPlan, str, str], Child],
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        children: list[Child],
        tell: Callable[[Line], None],
    ):
        self._plans = {plan.name: plan for plan in plans}
        self._make, self._spawn, self._children, self._tell = make, spawn, children, tell
        self._numbers: dict[str, int] = {}
        self._by_id: dict[str, Child] = {}
        self._ending = False
        self.registry = Registry()
        self._exporter = Exporter(self.registry)
        self.running = asyncio.Event()
        """Set once it has metrics."""
        pools = [
            ScaledPool(name=name, environments=tuple(keys), policy=policy)
            for name, keys in environments.items()
        ]
        self._backend = ProcessBackend(self, monotonic, lambda pool: secrets.token_hex(8))
        self._scaled = pools
        self._task: asyncio.Task[None] | None = None

    @property
    def metrics(self) -> str:
        """Where its metrics are."""
        return f"http://127.0.0.1:{self._exporter.port}/metrics"

    async def run(self, address: str, access: Access) -> None:
        """Scale until cancelled. ``address`` is the broker's, ``access`` the way in."""
        async with access.channel(address, (), "") as channel:
            fleet = Fleet(lambda: channel, tuple, monotonic)
            meters = Meters(self.registry, lambda: True)
            autoscaler = Autoscaler(self._scaled, fleet, self._backend, meters, monotonic)
            self._exporter.start("127.0.0.1", 0)
            self.running.set()
            try:
                await autoscaler.run()
            finally:
                self._ending = True
                await self._exporter.stop()

    # ---- what the backend asks for

    def start(self, pool: str, host_id: str, ready: Callable[[], None], ended: Callable[[], None]) -> None:
        """Start a host."""
        number = self._numbers[pool] = self._numbers.get(pool, 0) + 1
        child = self._by_id[host_id] = self._make(self._plans[pool], f"{pool}-{number}", host_id)
        self._children.append(child)
        self._spawn(self._live(child, host_id, ready, ended), f"child-{child.name}")

    def end(self, host_id: str) -> None:
        """Ask a host to end."""
        if (child := self._by_id.get(host_id)) is not None:
            child.end()

    async def _live(
        self, child: Child, host_id: str, ready: Callable[[], None], ended: Callable[[], None]
    ) -> None:
        child.backoff = Backoff(attempts=0)  # a host that died is another host: the plan starts it
        child.when_ready = ready
        try:
            await child.supervise()
        except ChildFailed as failed:
            self._tell(Line(child.name, "error", str(failed)))
            if not self._ending:
                await asyncio.sleep(PAUSE_AFTER_FAILURE)
        finally:
            self._by_id.pop(host_id, None)
            self._children.remove(child)
            ended()
