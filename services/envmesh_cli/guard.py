"""``envmesh guard``: may what Helm is about to do be done now, or would it end episodes?"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterable

import grpc

from envmesh import errors
from envmesh.access import channel_options
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.connecting import connected, mesh_address, run_until_interrupted
from envmesh_cli.failures import FAILED, OK, CommandFailed

__all__ = ["episodes_in_the_way", "episodes_without_a_host", "guard"]

_SECONDS = 20.0
"""The broker may just be starting."""


def guard(arguments: argparse.Namespace) -> int:
    """Ask the broker and judge."""
    return run_until_interrupted(lambda: _guard(arguments))


async def _guard(arguments: argparse.Namespace) -> int:
    try:
        fleet = await _fleet(arguments)
    except (errors.EnvmeshError, TimeoutError) as error:
        why = str(error) or "not in time"
        if arguments.before == "uninstall":
            raise CommandFailed(
                f"nobody can tell whether episodes live, for the broker does not answer ({why}); "
                "`helm uninstall --no-hooks` removes the mesh all the same"
            ) from None
        print(f"the broker does not answer ({why}); nothing is checked")
        return OK
    kept = frozenset(arguments.keep) if arguments.before == "upgrade" else frozenset()
    served = frozenset(arguments.serve) if arguments.before == "upgrade" else frozenset()
    there = episodes_in_the_way(fleet.hosts, kept)
    waiting = episodes_without_a_host(fleet.queues, served)
    if arguments.json:
        print(json.dumps({"pools": there, "waiting": waiting, "passes": not (there or waiting)}))
    if not there and not waiting:
        if not arguments.json:
            print("no episode is in the way")
        return OK
    told = ", ".join(
        [f"{count} in pool {pool}" for pool, count in there.items()]
        + [f"{count} waiting for a host of {environment}" for environment, count in waiting.items()]
    )
    if arguments.before == "uninstall":
        advice = "end them first, or remove the mesh all the same with `helm uninstall --no-hooks`"
    else:
        advice = "keep the pool with `retiring: true` until it is empty, then remove it"
    raise CommandFailed(f"episodes live: {told}; {advice}", FAILED)


def episodes_in_the_way(hosts: Iterable[fleet_pb2.HostStatus], kept: frozenset[str]) -> dict[str, int]:
    """Live episodes, and those that wait for a client that vanished, by pool; pools in ``kept`` are left out."""
    there: dict[str, int] = {}
    for host in hosts:
        pool = host.identity.pool
        live = sum(load.live for load in host.report.environments)
        count = max(live, host.report.unleased + sum(lease.in_use for lease in host.report.leases))
        if count and pool not in kept and host.state != fleet_pb2.HOST_STATE_SILENT:
            there[pool] = there.get(pool, 0) + count
    return dict(sorted(there.items()))


def episodes_without_a_host(queues: Iterable[fleet_pb2.QueueDepth], served: frozenset[str]) -> dict[str, int]:
    """Episodes that have lost their host and wait for a slot to be rebuilt in, by name@version; what is ``served``
    afterwards too is left out."""
    moving = {row.environment: row.relocating for row in queues if row.relocating}
    return {key: count for key, count in sorted(moving.items()) if key not in served}


async def _fleet(arguments: argparse.Namespace) -> fleet_pb2.Fleet:
    """The broker's picture, once it is complete.

    Raises:
        EnvmeshError: the broker does not answer, or not to this caller. TimeoutError: it has no complete picture.
    """
    mesh, address = connected(arguments), mesh_address(arguments)
    async with asyncio.timeout(_SECONDS), mesh.access.channel(address, channel_options()) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        while True:
            try:
                answer = await stub.GetFleet(
                    fleet_pb2.GetFleetRequest(), metadata=mesh.metadata, timeout=_SECONDS, wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                raise errors.from_rpc_error(error) from None
            if answer.fleet.complete:
                return answer.fleet
            await asyncio.sleep(0.2)
