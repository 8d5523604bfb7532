"""``envmesh guard``: may what Helm is about to do be done now, or would it end episodes?"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable

import grpc

from envmesh import errors
from envmesh.access import channel_options
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.connecting import connected, mesh_address, run_until_interrupted
from envmesh_cli.failures import OK, CommandFailed

__all__ = ["episodes_in_the_way", "episodes_without_a_host", "guard"]

_SECONDS = 20.0
"""The broker may just be starting."""

_MOST_NAMED = 5


def guard(arguments: argparse.Namespace) -> int:
    """Ask the broker and judge."""
    return run_until_interrupted(lambda: _guard(arguments))


async def _guard(arguments: argparse.Namespace) -> int:
    fleet, unknown = await _fleet(arguments)
    upgrade = arguments.before == "upgrade"
    there = episodes_in_the_way(fleet.hosts, frozenset(arguments.keep if upgrade else ()))
    waiting = episodes_without_a_host(fleet.queues, frozenset(arguments.serve if upgrade else ()))
    free = not (there or waiting)
    passes = free and (upgrade or not unknown)
    if arguments.json:
        told = {"pools": there, "waiting": waiting, "passes": passes, "checked": not unknown, "why": unknown}
        print(json.dumps(told))
    if passes:
        if unknown:  # an upgrade may be what mends it
            sys.stderr.write(f"{unknown}; the upgrade passes, and not everything was checked\n")
        elif not arguments.json:
            print("no episode is in the way")
        return OK
    if free:
        raise CommandFailed(
            f"nobody can tell whether episodes live, for {unknown}; "
            "`helm uninstall --no-hooks` removes the mesh all the same"
        )
    listed = ", ".join(
        [f"{count} in pool {pool}" for pool, count in there.items()]
        + [f"{count} waiting for a host of {environment}" for environment, count in waiting.items()]
    )
    if upgrade:
        advice = "keep the pool with `retiring: true` until it is empty, then remove it"
    else:
        advice = "end them first, or remove the mesh all the same with `helm uninstall --no-hooks`"
    raise CommandFailed(f"episodes live: {listed}; {advice}")


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


async def _fleet(arguments: argparse.Namespace) -> tuple[fleet_pb2.Fleet, str]:
    """The broker's picture, once it is complete, or the last one there was in time; and why that may not be all, which
    is empty for a complete one."""
    mesh, address = connected(arguments), mesh_address(arguments)
    picture: fleet_pb2.Fleet | None = None
    try:
        async with asyncio.timeout(_SECONDS), mesh.access.channel(address, channel_options()) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            while picture is None or not picture.complete:
                if picture is not None:
                    await asyncio.sleep(0.2)
                request = fleet_pb2.GetFleetRequest()
                answer = await stub.GetFleet(
                    request, metadata=mesh.metadata, timeout=_SECONDS, wait_for_ready=True
                )
                picture = answer.fleet
    except grpc.aio.AioRpcError as error:
        return picture or fleet_pb2.Fleet(), _unanswered(errors.from_rpc_error(error))
    except errors.EnvmeshError as error:
        return picture or fleet_pb2.Fleet(), _unanswered(error)
    except TimeoutError:
        if picture is None:
            return fleet_pb2.Fleet(), "the broker does not answer (not in time)"
        return picture, "the broker does not hear every host" + _silent(picture)
    return picture, ""


def _unanswered(error: errors.EnvmeshError) -> str:
    """Why the broker has not told its picture."""
    if isinstance(error, errors.PermissionDenied):
        return f"the broker refuses the credential of this check ({error})"
    if isinstance(error, errors.MeshUnavailable | errors.DeadlineExceeded):
        return f"the broker does not answer ({error})"
    return f"the broker cannot be asked ({error})"


def _silent(fleet: fleet_pb2.Fleet) -> str:
    names = [host.identity.name for host in fleet.hosts if host.state == fleet_pb2.HOST_STATE_SILENT]
    return f" ({', '.join(names[:_MOST_NAMED])})" if names else ""
