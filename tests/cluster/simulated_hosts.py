"""``python -m tests.cluster.simulated_hosts``: a host behind every pod that kwok pretends to run.

Each is registered with the broker over real gRPC, as its pod's uid, for as long as its pod is there. What it
holds is asked for here too: one command a line on standard input, one JSON answer a line on standard output. ``acquire
SLOTS``, ``churn LEASES``, ``release``.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from envmesh.v1 import fleet_pb2, placement_pb2, placement_pb2_grpc
from envmesh_host.registration import Registration
from envmesh_service.rpc import BROKER_CHANNEL_OPTIONS
from tests.cluster.api import Api, ApiError, Object
from tests.cluster.control_plane import API_PORT, NODE_ADDRESS
from tests.integration.broker_parts import SimulatedHost

REGISTERED = "envmesh.dev/registered"
"""kwok calls a pod Ready once it bears this annotation: a host is Ready once it is registered, and not before."""


class PodHost(SimulatedHost):
    """The host behind a pod. ``on_registered`` is told of it whenever the broker hears it."""

    def __init__(
        self, uid: str, name: str, pool: str, slots: int, on_registered: Callable[[str], None]
    ) -> None:
        super().__init__(uid, slots, name=name, pool=pool, address=f"{name}:7070")
        self._on_registered = on_registered

    def connected(self, up: bool) -> None:
        """The broker hears it, or does not any more."""
        super().connected(up)
        if up:
            self._on_registered(self.identity.name)


class Fleet:
    """The hosts, their pods, and the leases on them."""

    def __init__(self, api: Api, broker: str, pool: str, slots: int, tasks: asyncio.TaskGroup) -> None:
        self._api, self._broker, self._pool, self._slots, self._tasks = api, broker, pool, slots, tasks
        self._hosts: dict[str, PodHost] = {}
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
            name = pod["metadata"]["name"]
            self._hosts[uid] = made = PodHost(uid, name, self._pool, self._slots, self._registered)
            channel = grpc.aio.insecure_channel(
                self._broker, [*BROKER_CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
            )
            made.registration = Registration(lambda: channel, made.identity, made.report, made)
            task = self._tasks.create_task(self._live(made, channel), name=f"host-{name}")
            self._running[uid] = task

    async def _live(self, host: PodHost, channel: grpc.aio.Channel) -> None:
        async with channel:
            await host.registration.run()
        del self._running[host.identity.host_id]

    def _registered(self, name: str) -> None:
        path = f"/api/v1/namespaces/default/pods/{name}"
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
                    host.show(lease)
                    host.use(lease.lease_id)
                    leases += 1
        return leases

    def release(self, leases: int) -> int:
        """End so many leases; returns how many slots they were."""
        slots = 0
        held = [(host, lease_id) for host in self._hosts.values() for lease_id in host.table][:leases]
        for host, lease_id in held:
            slots += host.table[lease_id].in_use
            host.end(lease_id)
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
