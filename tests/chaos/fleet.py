"""The mesh that accidents happen to: a broker, and hosts each behind proxies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.child import Backoff, Child, Line
from envmesh_cli.local_mesh import LocalMesh
from envmesh_cli.pools import PoolPlan
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import WINDOW, Fault

__all__ = ["ChaosMesh", "plans"]

ROOT = Path(__file__).resolve().parents[2]
ASK_SECONDS = 2.0
TAKE_BACK_SECONDS = 20.0
TARGETS = {
    "replayed": "replayed=tests.chaos.worlds:Replayed?length=250",
    "worker": "worker=tests.chaos.worlds:ReplayedInWorker?length=120",
    "saved": "saved=tests.chaos.worlds:Saved?length=250",
    "slow": "slow=tests.chaos.worlds:Slow?length=40",
    "pair": "pair=tests.chaos.worlds:Pair?length=120",
    "paying": "paying=tests.chaos.worlds:Paying?length=60",
}
POOLS = {
    "mixed": ("replayed", "slow", "pair", "paying"),
    "kept": ("worker", "saved", "paying", "slow"),
}
"""What the hosts of a pool serve; each pool has several."""

SETTINGS = {
    "PYTHONPATH": str(ROOT),
    "ENVMESH_HOST_LIVENESS_WINDOW": str(WINDOW),
    "ENVMESH_HOST_DRAIN_DEADLINE": "3",
    "ENVMESH_HOST_CHECKPOINT_STEPS": "20",
    "ENVMESH_HOST_REATTACH_WINDOW": "12",  # what a trainer leaves behind on a host it cannot reach goes after this
    "ENVMESH_HOST_LEASE_IDLE": "12",
    "ENVMESH_HOST_WORKERS": "2",
    "ENVMESH_HOST_PLACEMENT": "spread",
}


def plans(hosts: int, settings: dict[str, str]) -> list[PoolPlan]:
    """Pools with so many hosts between them."""
    share = -(-hosts // len(POOLS))
    return [
        PoolPlan(name=name, targets=tuple(TARGETS[word] for word in words), hosts=share, settings=settings)
        for name, words in POOLS.items()
    ]


class ChaosMesh(LocalMesh):
    """A local mesh whose hosts are reached, and reach their broker, through proxies only."""

    def __init__(self, hosts: int, ledger: Path, tell: Callable[[Line], None]):
        settings = {**SETTINGS, "ENVMESH_TEST_LEDGER": str(ledger)}
        super().__init__(plans(hosts, settings), tell=tell)
        self.proxies: dict[str, tuple[Proxy, Proxy]] = {}
        self._open = contextlib.AsyncExitStack()
        self._seal_key = ""
        self.cannot: list[str] = []

    def _host(self, pool: PoolPlan, name: str, seal_key: str) -> Child:
        child = super()._host(pool, name, seal_key)
        self._seal_key = seal_key
        listen = child.environ["ENVMESH_HOST_LISTEN"] = (
            f"127.0.0.1:{_free_port()}"  # for it tells what it advertises
        )
        front = Proxy(lambda: listen if child.ready.is_set() else "")
        fleet = Proxy(lambda: self.broker.address if self.broker.ready.is_set() else "")
        child.environ["ENVMESH_HOST_ADVERTISE"] = front.address
        child.environ["ENVMESH_HOST_BROKER"] = fleet.address
        self.proxies[name] = front, fleet
        return child

    def _begin(self, child: Child) -> None:
        child.backoff = Backoff(longest=0.5, attempts=1_000_000)
        if child.name in self.proxies:
            self._tasks.create_task(self._serve(child.name), name=f"chaos-proxies-{child.name}")
        super()._begin(child)

    async def _serve(self, name: str) -> None:
        for proxy in self.proxies[name]:
            await self._open.enter_async_context(proxy)

    async def __aexit__(self, *error: Any) -> None:
        for proxies in self.proxies.values():
            for proxy in proxies:
                proxy.heal()
        try:
            await super().__aexit__(*error)
        finally:
            await self._open.aclose()

    # ---- accidents

    async def suffer(self, fault: Fault) -> None:
        """Carry one out, and what ends it."""
        if fault.kind == "broker_kill":
            self.broker.crash()
        elif fault.kind == "host_add":
            pool = self.pools[int(fault.chance * len(self.pools))]
            self._begin(self._host(pool, f"{pool.name}-{len(self.proxies) + 1}", self._seal_key))
        else:
            names = sorted(self.proxies)
            if fault.kind == "worker_kill":  # of a pool that has workers
                names = [name for name in names if name.startswith("kept")]
            name = names[(fault.victim or 0) % len(names)]
            child = next((child for child in self.hosts if child.name == name), None)
            if child is not None:
                await getattr(self, f"_{fault.kind}")(child, fault)

    async def _kill(self, child: Child, fault: Fault) -> None:
        child.crash()

    async def _terminate(self, child: Child, fault: Fault) -> None:
        _signal(child.process_id, signal.SIGTERM)

    async def _freeze_short(self, child: Child, fault: Fault) -> None:
        process_id = child.process_id
        _signal(process_id, signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            _signal(process_id, signal.SIGCONT)

    _freeze_long = _freeze_short

    async def _cut_short(self, child: Child, fault: Fault) -> None:
        front, _ = self.proxies[child.name]
        one_way = fault.kind == "cut_one_way"
        front.cut(to_server=not one_way or fault.chance < 0.5, to_client=not one_way or fault.chance >= 0.5)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            front.heal()

    _cut_long = _cut_one_way = _cut_short

    async def _fleet_cut(self, child: Child, fault: Fault) -> None:
        _, fleet = self.proxies[child.name]
        fleet.cut()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            fleet.heal()

    async def _delay(self, child: Child, fault: Fault) -> None:
        front, _ = self.proxies[child.name]
        front.delay = 0.02 + 0.1 * fault.chance
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            front.heal()

    async def _half_close(self, child: Child, fault: Fault) -> None:
        self.proxies[child.name][0].half_close()

    async def _reset(self, child: Child, fault: Fault) -> None:
        self.proxies[child.name][0].reset()

    async def _worker_kill(self, child: Child, fault: Fault) -> None:
        workers = [pid for pid in _descendants(child.process_id) if _is_worker(pid)]
        if workers:
            _signal(workers[int(fault.chance * len(workers))], signal.SIGKILL)
        else:
            self.cannot.append(fault.kind)

    async def _drain(self, child: Child, fault: Fault) -> None:
        host_id = await self._order(child, drain=True)
        if host_id is not None:
            await asyncio.sleep(fault.seconds)
            # The broker may be away, or not know the host just now.
            async with asyncio.timeout(TAKE_BACK_SECONDS):
                while child.process_id and await self._order(child, drain=False) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.5)
        else:
            self.cannot.append(fault.kind)

    _drain_back = _drain

    async def _order(self, child: Child, *, drain: bool) -> str | None:
        """Tell a host to drain, or not to. Returns its id; None where the broker knows of no such host now."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with grpc.aio.insecure_channel(self.broker.address) as channel:
                stub = fleet_pb2_grpc.FleetServiceStub(channel)
                for host in (
                    await stub.GetFleet(fleet_pb2.GetFleetRequest(), timeout=ASK_SECONDS)
                ).fleet.hosts:
                    if host.identity.name != child.name or host.state == fleet_pb2.HOST_STATE_SILENT:
                        continue
                    host_id = host.identity.host_id
                    if drain:
                        await stub.Drain(fleet_pb2.DrainRequest(host_id=host_id), timeout=ASK_SECONDS)
                    else:
                        await stub.CancelDrain(
                            fleet_pb2.CancelDrainRequest(host_id=host_id), timeout=ASK_SECONDS
                        )
                    return host_id
        return None

    # ---- what there is

    async def held_slots(self) -> dict[str, str]:
        """What is not free, by host name; "?" where the broker does not answer or does not hear every host."""
        held: dict[str, str] = {}
        try:
            async with grpc.aio.insecure_channel(self.broker.address) as channel:
                stub = fleet_pb2_grpc.FleetServiceStub(channel)
                fleet = (await stub.GetFleet(fleet_pb2.GetFleetRequest(), timeout=ASK_SECONDS)).fleet
        except grpc.aio.AioRpcError as error:
            return {"?": f"the broker does not answer: {error.code()}"}
        for host in fleet.hosts:
            if host.state == fleet_pb2.HOST_STATE_SILENT:
                continue
            in_use = sum(lease.in_use for lease in host.report.leases)
            idle = sum(lease.idle for lease in host.report.leases)
            if in_use or idle or host.report.unleased or host.in_use or host.idle or host.provisional:
                held[host.identity.name] = (
                    f"reported {in_use} in use, {idle} idle, {host.report.unleased} unleased; the broker counts "
                    f"{host.in_use} in use, {host.idle} idle, {host.provisional} provisional"
                )
        heard = {host.identity.name for host in fleet.hosts if host.state == fleet_pb2.HOST_STATE_READY}
        if missing := {child.name for child in self.hosts} - heard:
            states = {host.identity.name: fleet_pb2.HostState.Name(host.state) for host in fleet.hosts}
            held["?"] = ", ".join(f"{name} is {states.get(name, 'unknown')}" for name in sorted(missing))
        return held


def _free_port() -> int:
    """A port below those that the kernel gives out by itself, so that it is still free at a restart."""
    for _ in range(100):
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free between 20000 and 30000")


def _signal(process_id: int | None, number: signal.Signals) -> None:
    if process_id is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, number)


def _descendants(process_id: int | None) -> list[int]:
    found: list[int] = []
    waiting = [process_id] if process_id is not None else []
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                children = [int(word) for word in (thread / "children").read_text().split()]
                found += children
                waiting += children
    return found


def _is_worker(process_id: int) -> bool:
    """Whether it is a worker: forked, by the forkserver, with nothing below it."""
    try:
        name = (
            Path(f"/proc/{process_id}/cmdline").read_bytes() + Path(f"/proc/{process_id}/comm").read_bytes()
        )
    except OSError:
        return False
    return b"forkserver" in name and not _descendants(process_id)
