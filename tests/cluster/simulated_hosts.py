"""``python -m tests.cluster.simulated_hosts``: a host behind every pod that kwok pretends to run.

Each is registered with the broker over real gRPC, as its pod's uid, for as long as its pod is there; it keeps a lease
table, drains when it is told to, and says that it is sealed. What it holds is asked for here too: one command a line on
standard input, one JSON answer a line on standard output. ``acquire SLOTS``, ``churn LEASES``, ``release``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from envmesh.v1 import fleet_pb2, placement_pb2, placement_pb2_grpc
from envmesh_host.registration import Registration
from envmesh_service.rpc import BROKER_CHANNEL_OPTIONS
from tests.cluster.api import Api, ApiError, Object
from tests.cluster.control_plane import API_PORT, NODE_ADDRESS

REGISTERED = "envmesh.dev/registered"
"""kwok calls a pod Ready once it bears this annotation: a host is Ready once it is registered, and not before."""


@dataclass
class SimulatedHost:
    """One host: its lease table, and what its registration asks of it."""

    uid: str
    name: str
    slots: int
    on_registered: Any
    table: dict[bytes, int] = field(default_factory=dict)
    ended: list[bytes] = field(default_factory=list)
    draining: bool = False
    registration: Registration = field(init=False)

    @property
    def state(self) -> fleet_pb2.HostState.ValueType:
        """What it is doing."""
        if not self.draining:
            return fleet_pb2.HOST_STATE_READY
        return fleet_pb2.HOST_STATE_DRAINING if self.table else fleet_pb2.HOST_STATE_SEALED

    def identity(self, pool: str) -> fleet_pb2.HostIdentity:
        """Who it is."""
        made = fleet_pb2.HostIdentity(
            host_id=self.uid, name=self.name, pool=pool, address=f"{self.name}:7070", slots=self.slots
        )
        made.environments.add(name="cartpole", version="1")
        return made

    def report(self) -> fleet_pb2.HostReport:
        """The whole picture."""
        report = fleet_pb2.HostReport(state=self.state, event_loop_lag=0.001)
        for lease_id, count in self.table.items():
            report.leases.add(
                lease_id=lease_id,
                tenant="default",
                environment="cartpole@1",
                in_use=count,
                client_id=bytes(16),
            )
        for lease_id in self.ended:
            report.leases.add(lease_id=lease_id)
        self.ended.clear()
        return report

    def drain(self, wanted: bool) -> None:
        """Drain, or take it back."""
        if wanted != self.draining:
            self.draining = wanted
            self.registration.changed()

    def connected(self, up: bool) -> None:
        """The broker hears it."""
        if up:
            self.on_registered(self)

    def lease_keys(self, public_keys: Any) -> None:
        """Nobody shows it a lease."""

    def recalls(self, keep: Any) -> None:
        """No lease is idle here."""

    def revoked(self, tenants: Any, credentials: Any) -> None:
        """There is one tenant."""

    def watches(self, watches: Any) -> None:
        """Nobody looks."""

    def pass_required(self, required: bool) -> None:
        """Nobody calls."""


class Fleet:
    """The hosts, their pods, and the leases on them."""

    def __init__(self, api: Api, broker: str, pool: str, slots: int, tasks: asyncio.TaskGroup) -> None:
        self._api, self._broker, self._pool, self._slots, self._tasks = api, broker, pool, slots, tasks
        self._hosts: dict[str, SimulatedHost] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._annotating = ThreadPoolExecutor(8, "annotate")
        self._loop = asyncio.get_running_loop()
        self.went: Counter[str] = Counter()
        """By state, the hosts whose pods were deleted."""

    # ---- pods

    def watch(self) -> None:
        """Follow the pods; to be run in a thread."""
        path = "/api/v1/namespaces/default/pods"
        while True:
            try:
                for kind, pod in self._api.watch(path, labelSelector=f"pool={self._pool}"):
                    self._loop.call_soon_threadsafe(self._heard, kind, pod)
            except (ApiError, OSError):
                time.sleep(0.5)

    def _heard(self, kind: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        gone = kind == "DELETED" or "deletionTimestamp" in pod["metadata"]
        host = self._hosts.get(uid)
        if gone and host is not None:
            self.went[fleet_pb2.HostState.Name(host.state)] += 1
            del self._hosts[uid]
            host.registration.leave()
        elif not gone and host is None and pod["status"].get("podIP"):
            self._hosts[uid] = made = SimulatedHost(
                uid, pod["metadata"]["name"], self._slots, self._registered
            )
            channel = grpc.aio.insecure_channel(
                self._broker, [*BROKER_CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
            )
            made.registration = Registration(lambda: channel, made.identity(self._pool), made.report, made)
            task = self._tasks.create_task(self._live(made, channel), name=f"host-{made.name}")
            self._running[uid] = task

    async def _live(self, host: SimulatedHost, channel: grpc.aio.Channel) -> None:
        async with channel:
            await host.registration.run()
        del self._running[host.uid]

    def _registered(self, host: SimulatedHost) -> None:
        path = f"/api/v1/namespaces/default/pods/{host.name}"
        self._annotating.submit(self._api.patch, path, {"metadata": {"annotations": {REGISTERED: "true"}}})

    # ---- leases

    async def acquire(self, slots: int) -> int:
        """Ask for slots in one request, and hold them; returns how many leases that made."""
        leases = 0
        async with grpc.aio.insecure_channel(self._broker) as channel:
            stub: Any = placement_pb2_grpc.PlacementServiceStub(channel)
            request = placement_pb2.AcquireRequest(
                environment="cartpole",
                count=slots,
                client_id=bytes(16),
                mode=placement_pb2.ACQUIRE_MODE_PARTIAL,
            )
            async for answer in stub.Acquire(request):
                for lease in answer.grant.leases:
                    host = self._hosts[lease.host_id]
                    host.table[lease.lease_id] = lease.count
                    host.registration.changed()
                    leases += 1
        return leases

    def release(self, leases: int) -> int:
        """End so many leases; returns how many slots they were."""
        slots = 0
        held = [(host, lease_id) for host in self._hosts.values() for lease_id in host.table][:leases]
        for host, lease_id in held:
            slots += host.table.pop(lease_id)
            host.ended.append(lease_id)
            host.registration.changed()
        return slots


async def main(arguments: argparse.Namespace) -> None:
    """Simulate until standard input ends."""
    api = Api(NODE_ADDRESS, API_PORT, arguments.authority, arguments.token)
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        fleet = Fleet(api, arguments.broker, arguments.pool, arguments.slots, tasks)
        threading.Thread(target=fleet.watch, name="pods", daemon=True).start()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            word, *numbers = line.split()
            said: dict[str, Any] = {"word": word, "started": time.time()}
            if word == "acquire":
                said["leases"] = await fleet.acquire(int(numbers[0]))
            elif word == "churn":
                said["slots"] = fleet.release(int(numbers[0]))
                said["leases"] = await fleet.acquire(said["slots"])
            elif word == "release":
                said["slots"] = fleet.release(sys.maxsize)
            said |= {"seconds": time.time() - said["started"], "went": dict(fleet.went)}
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()
        os._exit(0)  # a thousand sessions need no goodbye: the cluster ends with them


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--authority", type=Path, required=True)
    asyncio.run(main(parser.parse_args()))
