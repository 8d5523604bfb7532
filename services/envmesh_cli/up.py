"""``envmesh up``: a local mesh, watched in a terminal."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from envmesh import event_loop
from envmesh.target import split_target
from envmesh_autoscaler.demand import PoolPolicy
from envmesh_cli.child import Line
from envmesh_cli.command_arguments import LOCAL_POLICY
from envmesh_cli.failures import INTERRUPTED, USAGE, CommandFailed
from envmesh_cli.local_mesh import LocalMesh
from envmesh_cli.pools import PoolPlan, plan_pools
from envmesh_cli.tables import marked, open_console, plain_table
from envmesh_cli.targets import declaration_flags, declarations
from envmesh_host.settings import HostSettings
from envmesh_service.lifecycle import Process, Shutdown, run_process
from envmesh_service.logs import configure
from envmesh_service.settings import load, parse_duration, variable

__all__ = ["LineWriter", "up"]

DRAIN_MARGIN = 10.0
"""Seconds beyond the hosts' own deadline before they are ended."""

_COLOURS = (
    "cyan",
    "green",
    "magenta",
    "blue",
    "bright_cyan",
    "bright_green",
    "bright_magenta",
    "bright_blue",
)
_LEVELS = {"debug": "dim", "info": "", "warning": "yellow", "error": "red", "critical": "red"}


def up(arguments: argparse.Namespace) -> int:
    """Run a mesh until told to end."""
    declarations(arguments)  # told here when wrong, and not by every host
    flags = declaration_flags(arguments)
    plans = plan_pools(arguments.targets, arguments.pool, hosts=arguments.hosts or 1, flags=flags)
    settings: dict[str, str] = {}
    deadline = drain_deadline(arguments.drain_deadline, os.environ)
    drain = deadline + DRAIN_MARGIN
    if arguments.drain_deadline is not None:
        settings["ENVMESH_HOST_DRAIN_DEADLINE"] = arguments.drain_deadline
    if arguments.workers is not None:
        settings["ENVMESH_HOST_WORKERS"] = str(arguments.workers)
    policy = _policy(arguments)
    writer = LineWriter(open_console(stderr=True), verbose=arguments.verbose)
    mesh = LocalMesh(
        plans,
        listen=arguments.listen,
        host_settings=settings,
        broker_settings={} if arguments.page is None else {"ENVMESH_BROKER_PAGE_LISTEN": arguments.page},
        tell=writer.tell,
        verbose=arguments.verbose,
        keys=Path(arguments.keys) if arguments.keys else None,
        autoscale=policy,
    )
    if policy is not None:
        configure("debug" if arguments.verbose else "info", service="autoscaler")
    watch = _Watch(mesh, arguments, drain)
    shutdown = Shutdown(last_words=watch.end_now, forced_status=INTERRUPTED)
    event_loop.run(run_process(watch.run, grace=drain + 10.0, shutdown=shutdown))
    if shutdown.forced or not watch.served:
        watch.tell_of_haste()
        return INTERRUPTED
    return 0


def _policy(arguments: argparse.Namespace) -> PoolPolicy | None:
    """How pools are scaled, where they are."""
    given = {
        "min_hosts": arguments.min_hosts,
        "max_hosts": arguments.max_hosts,
        "buffer_min": arguments.buffer,
        "idle_after": _seconds(arguments.idle_after, "--idle-after"),
        "look_back": _seconds(arguments.look_back, "--look-back"),
    }
    said = {name: value for name, value in given.items() if value is not None}
    if not arguments.autoscale:
        if said:
            option = "--" + next(iter(said)).replace("_", "-").removesuffix("-min")
            raise CommandFailed(f"{option} says how to scale: it comes with --autoscale", USAGE)
        return None
    fixed = next((f"--pool {head}" for head, *_ in arguments.pool if ":" in head), None)
    if arguments.hosts is not None:
        fixed = f"--hosts {arguments.hosts}"
    if fixed is not None:
        raise CommandFailed(
            f"{fixed} says how many hosts there always are: with --autoscale, --min-hosts and --max-hosts bound them",
            USAGE,
        )
    try:
        return replace(LOCAL_POLICY, **said)
    except ValueError as error:
        raise CommandFailed(str(error).partition("; got")[0], USAGE) from None


def drain_deadline(given: str | None, environ: Mapping[str, str]) -> float:
    """How long the hosts' episodes may take to leave: what was given, else what their own variable says.

    Raises:
        CommandFailed: what was given is no duration.
        SettingsError: what the variable says is none, or a host takes no such one.
    """
    if (seconds := _seconds(given, "--drain-deadline")) is not None:
        return seconds
    where = variable(HostSettings, "drain_deadline")
    own = {where: environ[where]} if where in environ else {}  # all else is for the hosts to judge
    return load(HostSettings, own).drain_deadline


def _seconds(text: str | None, option: str) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise CommandFailed(f"{option} {text}: {error}", USAGE) from None


class _Watch:
    """A mesh from its start to its end, and what is said of it meanwhile."""

    def __init__(self, mesh: LocalMesh, arguments: argparse.Namespace, drain: float):
        self._mesh, self._arguments, self._drain = mesh, arguments, drain
        self.served = False
        """Whether it was ready once: before that it has no episode to lose."""

    async def run(self, process: Process) -> None:
        """Start the mesh, say where it is, and drain it when told to end."""
        console = open_console(stderr=True)
        mesh = self._mesh
        hosts = sum(pool.hosts for pool in mesh.pools)
        if not self._arguments.json:
            beside = f" and {_hosts(hosts)}" if mesh.policy is None else "; hosts come as demand says"
            console.print(f"starting a broker{beside} …", style="dim")
        started = time.perf_counter()
        main = asyncio.current_task()
        assert main is not None
        impatient = process.spawn(_cancel_when(process.shutdown, main), name="interrupted-start")
        async with mesh:
            impatient.cancel()
            self.served = True
            if self._arguments.json:
                print(json.dumps(announcement(mesh)), flush=True)
            else:
                announce(mesh, time.perf_counter() - started)
            await process.shutdown.wait()
            console.print(marked("\n[bold]draining[/]: running episodes may end; Ctrl-C again ends at once"))
            await mesh.drain(self._drain)
        console.print("everything has ended", style="dim")

    def end_now(self) -> None:
        """What is left to do where even the second stage takes too long: whoever waits for nothing leaves nothing."""
        self._mesh.abandon()
        self.tell_of_haste()

    def tell_of_haste(self) -> None:
        """Say what it means that the mesh did not end by itself."""
        lost = "ended at once; episodes that were running are lost"
        sys.stderr.write(f"{lost if self.served else 'ended before it was ready'}\n")


async def _cancel_when(shutdown: Shutdown, main: asyncio.Task[Any]) -> None:
    """A signal during the start ends it."""
    await shutdown.wait()
    main.cancel()


def announcement(mesh: LocalMesh) -> dict[str, object]:
    """What runs and where, for programs."""
    return {
        "address": mesh.address,
        "fleet": mesh.broker.fleet_address or mesh.address,
        "page": mesh.page,
        "metrics": mesh.metrics,
        "pools": [
            {"pool": pool.name, **_planned(pool, mesh.policy), "targets": list(pool.targets)}
            for pool in mesh.pools
        ],
        "processes": {child.name: child.process_id for child in mesh.children},
    }


def _planned(pool: PoolPlan, policy: PoolPolicy | None) -> dict[str, int | None]:
    """How many hosts a pool has; where demand says that, none is promised but the bounds."""
    if policy is None:
        return {"hosts": pool.hosts}
    return {"hosts": None, "min_hosts": policy.min_hosts, "max_hosts": policy.max_hosts}


def announce(mesh: LocalMesh, took: float) -> None:
    """What runs and where, for people."""
    console = open_console()
    table = plain_table("pool", "hosts", "serves", right=("hosts",))
    for pool in mesh.pools:
        policy = mesh.policy
        hosts = f"{pool.hosts}" if policy is None else f"{policy.min_hosts} to {policy.max_hosts}"
        table.add_row(pool.name, hosts, "  ".join(pool.targets))
    console.print()
    console.print(Padding(table, (0, 0, 1, 2)))
    name = environment_name(mesh.pools[0].targets[0])
    elsewhere = "" if mesh.address == "127.0.0.1:7070" else f" --mesh {mesh.address}"
    ready = f"(the broker; ready after {took:.1f} s)"
    console.print(marked("  [bold]listening[/]  {} [dim]{}[/]", mesh.address, ready))
    words = "".join(f', {name}="{value}"' for name, value in mesh.access.items() if name != "plaintext")
    if words:
        elsewhere += "".join(f" --{n.replace('_', '-')} {v}" for n, v in mesh.access.items())
    console.print(
        marked('  [bold]connect[/]    async with envmesh.connect("{}"{}) as mesh:', mesh.address, words)
    )
    console.print(
        f'                 async for trajectory in mesh.rollouts("{name}", policy, episodes=1000): …'
    )
    console.print(
        marked("  [bold]try[/]        envmesh run {}{}      envmesh top{}", name, elsewhere, elsewhere)
    )
    if mesh.page:
        console.print(marked("  [bold]page[/]       {} [dim](the mesh at a glance, live)[/]", mesh.page))
    urls = list(mesh.metrics.items())
    for number, (process, url) in enumerate(urls):
        title = "metrics" if number == 0 else ""
        console.print(marked("  [bold]{}[/]  {}  [dim]{}[/]", f"{title:<9}", url, process))
    console.print("\n  Ctrl-C drains; a second one ends at once.\n", style="dim")


def environment_name(text: str) -> str:
    """What ``[NAME=]TARGET`` will be called."""
    name, target = split_target(text)
    return name or target


class LineWriter:
    """Writes what processes say, each line with its process before it; less than all unless ``verbose``."""

    def __init__(self, console: Console, *, verbose: bool = False):
        self._console = console
        self._verbose = verbose
        self._colours: dict[str, str] = {}
        self._complaining: set[str] = set()

    def tell(self, line: Line) -> None:
        """Write a line, where it says something that a person wants to know."""
        if not self._wanted(line):
            return
        colour = self._colours.setdefault(line.source, _COLOURS[len(self._colours) % len(_COLOURS)])
        varying = "".join(f"  {name}={value}" for name, value in line.fields.items())
        text = Text(f"{line.source:<14} ", style=colour)
        text.append(f"{line.text}{varying}", style=_LEVELS.get(line.level, ""))
        self._console.print(text, soft_wrap=True)

    def _wanted(self, line: Line) -> bool:
        if line.text.startswith("envmesh "):
            self._complaining.add(line.source)
        elif line.level:
            self._complaining.discard(line.source)
        if line.source in self._complaining:
            return False  # why a child could not start; the command says it itself
        return self._verbose or line.level not in ("debug", "info")


def _hosts(count: int) -> str:
    return f"{count} host{'s' * (count > 1)}"
