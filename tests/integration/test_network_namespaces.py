"""A cable that is pulled and plugged in again: packets vanish and nobody is told, which no proxy can show."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

import envmesh
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_service.leases import write_lease_key, write_seal_key
from tests.integration.closed_parts import until
from tests.integration.network_namespaces import Cable, cables, why_not
from tests.integration.recoverable_parts import SEEDS, alike, play

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
WALK = "walk=tests.environments.recoverable:Replayed?length=120&pause=0.004"


@contextlib.asynccontextmanager
async def running(*command: str, settings: dict[str, str], cable: Cable | None = None) -> AsyncIterator[dict]:
    """A service, from its word that it is ready until it has ended."""
    argv = (sys.executable, "-m", "envmesh_cli.child_entry", str(os.getpid()), *command)
    process = await asyncio.create_subprocess_exec(
        *(cable.namespace.command(argv) if cable is not None else argv),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
    )  # fmt: skip
    assert process.stdout is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(40):
            while '"message": "ready"' not in "".join(said[-1:]):
                said.append((await process.stdout.readline()).decode())
                assert said[-1], f"{command[0]} ended with {await process.wait()}: {''.join(said)}"
        reading = asyncio.ensure_future(process.stdout.read())  # noqa: TID251 - awaited below; else the pipe fills up
        yield json.loads(said[-1])
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await reading


@contextlib.asynccontextmanager
async def mesh_on(wires: list[Cable], directory: Path) -> AsyncIterator[str]:
    """A broker here, and a host at the far end of each cable. Yields the broker's address."""
    lease_key, seal_key = directory / "lease.pem", directory / "seal"
    write_lease_key(lease_key)
    write_seal_key(seal_key)
    open_to_all = {"PLAINTEXT_BEYOND_LOOPBACK": "true", "METRICS_LISTEN": "127.0.0.1:0"}
    async with contextlib.AsyncExitStack() as stack:
        settings = {
            **open_to_all,
            "LISTEN": "0.0.0.0:0",
            "ANYONE_BEYOND_LOOPBACK": "true",
            "LEASE_KEYS_FILE": str(lease_key),
        }
        broker = await stack.enter_async_context(
            running("broker", settings={f"ENVMESH_BROKER_{name}": value for name, value in settings.items()})
        )
        port = broker["address"].rpartition(":")[2]
        for number, cable in enumerate(wires):
            settings = {
                **open_to_all, "LISTEN": f"{cable.there}:0", "BROKER": f"{cable.here}:{port}", "POOL": "walk",
                "NAME": f"walk-{number}", "SEAL_KEYS_FILE": str(seal_key), "SLOTS": "64", "DRAIN_DEADLINE": "2",
                "PLACEMENT": "spread",
            }  # fmt: skip
            await stack.enter_async_context(
                running("serve", WALK, "--json", cable=cable,
                        settings={f"ENVMESH_HOST_{name}": value for name, value in settings.items()})
            )  # fmt: skip
        yield f"127.0.0.1:{port}"


async def in_use(stub: fleet_pb2_grpc.FleetServiceStub) -> dict[str, int]:
    """Slots in use, by the name of the host, of those that are heard."""
    fleet = (await stub.GetFleet(fleet_pb2.GetFleetRequest())).fleet
    return {
        host.identity.name: sum(lease.in_use for lease in host.report.leases)
        for host in fleet.hosts
        if host.state == fleet_pb2.HOST_STATE_READY
    }


async def test_a_pulled_cable_is_a_pause_and_what_stood_behind_it_is_dropped_when_it_is_back(tmp_path: Path):
    if reason := why_not():
        pytest.skip(reason)
    with cables(2) as wires:
        async with (
            mesh_on(wires, tmp_path) as address,
            envmesh.connect(address, liveness_window=2.0) as mesh,
            grpc.aio.insecure_channel(address) as channel,
        ):
            fleet = fleet_pb2_grpc.FleetServiceStub(channel)
            undisturbed = await play(mesh)
            async with asyncio.TaskGroup() as group:
                playing = group.create_task(play(mesh), name="playing")

                async def all_begun():
                    load = await in_use(fleet)
                    return load if sum(load.values()) == len(SEEDS) else None

                load = await until(all_begun)
                behind = max(load, key=lambda name: load[name])
                wires[int(behind.rpartition("-")[2])].pull()
            disturbed = playing.result()
            assert not [each.failure for each in disturbed.values() if each.failure]
            assert [seed for seed in SEEDS if not alike(undisturbed[seed], disturbed[seed])] == []
            moved = [each for each in disturbed.values() if each.resumes]
            assert len(moved) == load[behind]

            wires[int(behind.rpartition("-")[2])].plug()

            async def back_and_empty():
                return (await in_use(fleet)).get(behind) == 0

            await until(back_and_empty, 40.0)
            again = await play(mesh)
            assert [seed for seed in SEEDS if not alike(undisturbed[seed], again[seed])] == []
