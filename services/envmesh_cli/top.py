"""``envmesh top``: pools, hosts, slots and rates, again and again."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator

import grpc
from google.protobuf import duration_pb2
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from envmesh import errors
from envmesh.mesh import Mesh
from envmesh.stream import channel_options
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_cli.connecting import channel_credentials, connected, mesh_address, run_until_interrupted
from envmesh_cli.failures import OK
from envmesh_cli.fleet_view import View, view_of_fleet, view_of_pools
from envmesh_cli.tables import open_console, plain_table, rate, seconds

__all__ = ["top"]

MOST_HOSTS_SHOWN = 40
_STATE_STYLES = {"ready": "green", "draining": "yellow", "sealed": "dim", "silent": "red", "starting": "cyan"}


def top(arguments: argparse.Namespace) -> int:
    """Show the picture until told to end, or once."""
    return run_until_interrupted(lambda: _top(arguments))


async def _top(arguments: argparse.Namespace) -> int:
    console = open_console()
    async with connected(arguments) as mesh:
        views = _views(arguments, mesh)
        try:
            if arguments.json:
                async for view in views:
                    print(json.dumps(view.as_json()), flush=True)
                    if arguments.once:
                        break
            elif arguments.once or not console.is_terminal:
                async for view in views:
                    console.print(_drawn(view, mesh_address(arguments)))
                    if arguments.once:
                        break
            else:
                with Live(console=console, screen=True, auto_refresh=False) as live:
                    async for view in views:
                        live.update(_drawn(view, mesh_address(arguments)), refresh=True)
        except asyncio.CancelledError:
            if arguments.once:
                raise
        finally:
            await views.aclose()  # type: ignore[attr-defined]
    return OK


async def _views(arguments: argparse.Namespace, mesh: Mesh) -> AsyncIterator[View]:
    """A view at every interval; the first one already has rates."""
    target = mesh_address(arguments)
    credentials = channel_credentials(arguments)
    options = channel_options()
    channel = (
        grpc.aio.secure_channel(target, credentials, options) if credentials
        else grpc.aio.insecure_channel(target, options)
    )  # fmt: skip
    async with channel:
        watching = fleet_pb2_grpc.FleetServiceStub(channel).WatchFleet(
            fleet_pb2.WatchFleetRequest(interval=_duration(max(0.1, arguments.interval))),
            metadata=mesh.metadata,
        )
        before: fleet_pb2.Fleet | None = None
        loop = asyncio.get_running_loop()
        then = loop.time()
        try:
            async for response in watching:
                now = loop.time()
                if before is not None:
                    yield view_of_fleet(response.fleet, before, now - then)
                before, then = response.fleet, now
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise errors.from_rpc_error(error) from None
    while True:  # a host alone
        yield view_of_pools(await mesh.pools())
        await asyncio.sleep(arguments.interval)


def _duration(value: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(value * 1e9))
    return duration


def _drawn(view: View, where: str) -> Group:
    steps = sum(pool.steps_per_second for pool in view.pools)
    live = sum(pool.in_use for pool in view.pools)
    title = Text.from_markup(f"[bold]envmesh[/] {where}   {live:,} slots in use   ")
    if view.hosts:
        title.append_text(Text.from_markup(f"{rate(steps)} steps/s   up {seconds(view.uptime_seconds)}"))
    else:
        title.append("a host alone; rates are among its metrics", style="dim")
    if not view.complete:
        title.append("   not every host has been heard", style="yellow")
    parts: list[Text | Table] = [title, Text(), _pools(view)]
    if view.hosts:
        parts += [Text(), _hosts(view)]
        if len(view.hosts) > MOST_HOSTS_SHOWN:
            parts.append(Text(f"… and {len(view.hosts) - MOST_HOSTS_SHOWN:,} more hosts", style="dim"))
    if len(view.tenants) > 1:
        parts += [Text(), _tenants(view)]
    return Group(*parts)


def _pools(view: View) -> Table:
    numbers = ("slots", "in use", "leased", "queued", "steps/s", "episodes/s", "failed")
    table = plain_table("pool", "hosts", *numbers, "environments", right=numbers)
    table.columns[-1].no_wrap = False
    for pool in view.pools:
        states = Text(", ").join(
            Text(f"{count} {state}", style=_STATE_STYLES.get(state, ""))
            for state, count in pool.hosts.items()
        )
        table.add_row(
            pool.pool, states, f"{pool.slots:,}", f"{pool.in_use:,}", f"{pool.leased:,}",
            Text(f"{pool.queued:,}", style="yellow" if pool.queued else ""), rate(pool.steps_per_second),
            rate(pool.episodes_per_second), Text(f"{pool.failed:,}", style="red" if pool.failed else ""),
            ", ".join(pool.environments),
        )  # fmt: skip
    return table


def _hosts(view: View) -> Table:
    numbers = ("slots", "in use", "leased", "steps/s", "episodes/s", "failed", "lag", "memory", "cores")
    table = plain_table("host", "pool", "state", *numbers, right=numbers)
    for host in view.hosts[:MOST_HOSTS_SHOWN]:
        table.add_row(
            host.host, host.pool, Text(host.state, style=_STATE_STYLES.get(host.state, "")), f"{host.slots:,}",
            f"{host.in_use:,}", f"{host.leased:,}", rate(host.steps_per_second), rate(host.episodes_per_second),
            Text(f"{host.failed:,}", style="red" if host.failed else ""), seconds(host.lag_seconds),
            f"{host.memory_bytes / 2**20:,.0f} MiB", f"{host.cores:.2f}",
        )  # fmt: skip
    return table


def _tenants(view: View) -> Table:
    table = plain_table("tenant", "leased", "queued", "quota", right=("leased", "queued", "quota"))
    for tenant, numbers in view.tenants.items():
        table.add_row(
            tenant, f"{numbers['leased']:,}", f"{numbers['queued']:,}", f"{numbers['quota'] or '–'}"
        )
    return table
