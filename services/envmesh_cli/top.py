"""``envmesh top``: pools, hosts, slots and rates, again and again."""

from __future__ import annotations

import argparse
import asyncio
import json

from rich.console import Group
from rich.live import Live
from rich.text import Text

from envmesh_cli.connecting import connected, mesh_address, run_until_interrupted
from envmesh_cli.failures import OK
from envmesh_cli.fleet_view import View
from envmesh_cli.fleet_watch import watch_views
from envmesh_cli.tables import FittingTable, count, marked, open_console, rate, seconds

__all__ = ["top"]

MOST_HOSTS_SHOWN = 40
_STATE_STYLES = {"ready": "green", "draining": "yellow", "sealed": "dim", "silent": "red", "starting": "cyan"}


def top(arguments: argparse.Namespace) -> int:
    """Show the picture until told to end, or once."""
    return run_until_interrupted(lambda: _top(arguments))


async def _top(arguments: argparse.Namespace) -> int:
    console = open_console()
    async with connected(arguments) as mesh:
        views = watch_views(mesh_address(arguments), mesh, interval=arguments.interval)
        try:
            if arguments.json:
                async for view in views:
                    print(json.dumps(view.as_json()), flush=True)
                    if arguments.once:
                        break
            elif arguments.once or not console.is_terminal:
                async for view in views:
                    console.print(drawn(view, mesh_address(arguments)))
                    if arguments.once:
                        break
            else:
                with Live(console=console, screen=True, auto_refresh=False) as live:
                    async for view in views:
                        live.update(drawn(view, mesh_address(arguments)), refresh=True)
        except asyncio.CancelledError:
            if arguments.once:
                raise
        finally:
            await views.aclose()
    return OK


def drawn(view: View, where: str) -> Group:
    """The view as people read it."""
    steps = sum(pool.steps_per_second or 0.0 for pool in view.pools)
    live = sum(pool.in_use for pool in view.pools)
    title = marked("[bold]envmesh[/] {}   {} slots in use   ", where, f"{live:,}")
    if view.alone:
        title.append("a host alone; rates are among its metrics", style="dim")
    else:
        title.append(f"{rate(steps)} steps/s   up {seconds(view.uptime_seconds)}")
        if not view.hosts:
            title.append("   no host now", style="yellow")
    if view.away:
        title.append("   the broker does not answer; waiting for it", style="red")
    if not view.complete:
        title.append("   not every host has been heard", style="yellow")
    parts: list[Text | FittingTable] = [title, Text(), _pools(view)]
    if view.hosts:
        parts += [Text(), _hosts(view)]
        if len(view.hosts) > MOST_HOSTS_SHOWN:
            parts.append(Text(f"… and {len(view.hosts) - MOST_HOSTS_SHOWN:,} more hosts", style="dim"))
    if len(view.tenants) > 1:
        parts += [Text(), _tenants(view)]
    return Group(*parts)


def _pools(view: View) -> FittingTable:
    numbers = ("slots", "in use", "leased", "queued", "steps/s", "episodes/s", "failed")
    spare = ("episodes/s", "leased", "failed", "slots", "steps/s", "environments", "queued")
    table = FittingTable(
        "pool",
        "hosts",
        *numbers,
        "environments",
        right=numbers,
        spare=spare,
        wrapped=("hosts", "environments"),
    )
    for pool in view.pools:
        states = Text(", ").join(
            Text(f"{hosts} {state}", style=_STATE_STYLES.get(state, ""))
            for state, hosts in pool.hosts.items()
        )
        table.add_row(
            pool.pool, states, f"{pool.slots:,}", f"{pool.in_use:,}", f"{pool.leased:,}",
            Text(f"{pool.queued:,}", style="yellow" if pool.queued else ""), rate(pool.steps_per_second),
            rate(pool.episodes_per_second), Text(count(pool.failed), style="red" if pool.failed else ""),
            ", ".join(pool.environments),
        )  # fmt: skip
    return table


def _hosts(view: View) -> FittingTable:
    numbers = ("slots", "in use", "leased", "steps/s", "episodes/s", "failed", "lag", "memory", "cores")
    spare = ("memory", "cores", "pool", "episodes/s", "leased", "slots", "failed", "lag", "steps/s")
    table = FittingTable("host", "pool", "state", *numbers, right=numbers, spare=spare)
    for host in view.hosts[:MOST_HOSTS_SHOWN]:
        table.add_row(
            host.host, host.pool, Text(host.state, style=_STATE_STYLES.get(host.state, "")), f"{host.slots:,}",
            f"{host.in_use:,}", f"{host.leased:,}", rate(host.steps_per_second), rate(host.episodes_per_second),
            Text(f"{host.failed:,}", style="red" if host.failed else ""), seconds(host.lag_seconds),
            f"{host.memory_bytes / 2**20:,.0f} MiB", f"{host.cores:.2f}",
        )  # fmt: skip
    return table


def _tenants(view: View) -> FittingTable:
    table = FittingTable("tenant", "leased", "queued", "quota", right=("leased", "queued", "quota"))
    for tenant, numbers in view.tenants.items():
        table.add_row(
            tenant, f"{numbers['leased']:,}", f"{numbers['queued']:,}", f"{numbers['quota'] or '–'}"
        )
    return table
