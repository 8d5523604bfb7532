"""``envmesh serve``: one host."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from envmesh import event_loop
from envmesh_cli.failures import INTERRUPTED
from envmesh_cli.own_output import own_output
from envmesh_cli.targets import advice, declarations, load_targets
from envmesh_host.settings import HostSettings
from envmesh_service.lifecycle import run_process
from envmesh_service.logs import configure
from envmesh_service.memory import keep_memory
from envmesh_service.settings import load

if TYPE_CHECKING:
    from envmesh_host.host import Host

__all__ = ["serve"]

log = logging.getLogger("envmesh.host")


def serve(arguments: argparse.Namespace) -> int:
    """Serve until told to end."""
    with own_output() if arguments.json else nullcontext(sys.stdout) as output:
        return _serve(arguments, output)


def _serve(arguments: argparse.Namespace, output: TextIO) -> int:
    settings = host_settings(arguments)
    configure("debug" if arguments.verbose else settings.log_level, service=settings.name or "host")
    testimony = None
    if settings.broker and settings.witness:
        from envmesh_host import witness

        testimony = witness.begin(settings)  # before an environment's code can start a thread
    definitions = load_targets(arguments.targets, declarations(arguments))

    from envmesh_host.host import Host

    host = Host(settings, definitions, testimony)
    terminal = sys.stdout.isatty() and not arguments.json

    def ready(host: Host) -> None:
        keep_memory()
        if arguments.json:
            print(json.dumps(announcement(host)), file=output, flush=True)
        elif terminal:
            announce(host)
        if not terminal:
            log.info(
                "ready", extra={"address": host.address, "metrics": host.exporter.port, "host": host.host_id}
            )

    grace = settings.drain_deadline + 5.0
    shutdown = event_loop.run(run_process(lambda process: host.run(process, ready), grace=grace))
    return INTERRUPTED if shutdown.forced else 0


def host_settings(arguments: argparse.Namespace) -> HostSettings:
    """The host's settings: the environment's, and the command line's on top.

    Raises:
        SettingsError: with every mistake there is.
    """
    overrides: dict[str, object] = {
        "listen": arguments.listen,
        "metrics_listen": arguments.metrics,
        "health_listen": arguments.health,
        "workers": arguments.workers,
        "drain_deadline": arguments.drain_deadline,
        "broker": arguments.broker,
        "pool": arguments.pool,
        "name": arguments.name,
    }
    if arguments.keys:
        overrides |= key_files(Path(arguments.keys), in_mesh=bool(arguments.broker))
    if arguments.slots is not None and "ENVMESH_HOST_SLOTS" not in os.environ:
        overrides["slots"] = max(arguments.slots * len(arguments.targets), HostSettings().slots)
    return load(HostSettings, os.environ, overrides)


def key_files(directory: Path, *, in_mesh: bool) -> dict[str, object]:
    """The settings that `envmesh keys DIRECTORY` made files for."""
    files = {
        "tls_certificate": directory / "host-tls" / "tls.crt",
        "tls_private_key": directory / "host-tls" / "tls.key",
        "tls_authority": directory / "host-tls" / "ca.crt",
        "seal_keys_file": directory / "seal-keys" / "seal-keys",
    }
    if not in_mesh:
        files["lease_keys_file"] = directory / "lease-keys" / "lease-keys.pem"
        files["credentials_file"] = directory / "credentials" / "credentials.json"
    return dict(files)


def ways_in(settings: HostSettings) -> tuple[str, str]:
    """What a trainer must show, as arguments of ``connect`` and as flags."""
    words, flags = "", ""
    if settings.tls_certificate is not None:
        words, flags = ", ca=…", " --ca …"
    if settings.broker or settings.credentials_file is not None:
        words, flags = (
            f"{words}, token_file=…" if words else words,
            f"{flags} --token-file …" if words else flags,
        )
    return words, flags


def announcement(host: Host) -> dict[str, object]:
    """What is served and where, for programs."""
    return {
        "address": host.address,
        "metrics": host.settings.metrics_url(host.exporter.port),
        "host_id": host.host_id,
        "pool": host.settings.pool,
        "broker": host.settings.broker or None,
        "environments": [
            {
                "environment": definition.key,
                "target": definition.target,
                "isolation": definition.declaration.isolation.value,
                "recovery": definition.declaration.recovery.value,
                "declared": definition.declaration.declared,
            }
            for definition in host.definitions
        ],
    }


def announce(host: Host) -> None:
    """What is served and where, for people."""
    from rich.padding import Padding

    from envmesh_cli.tables import marked, open_console, plain_table

    console = open_console()
    table = plain_table("environment", "isolation", "recovery", "target")
    for definition in host.definitions:
        declaration = definition.declaration
        table.add_row(
            definition.key, declaration.isolation.value, declaration.recovery.value, definition.target
        )
    console.print()
    console.print(Padding(table, (0, 0, 1, 2)))
    place = f"in pool {host.settings.pool} of {host.settings.broker}" if host.settings.broker else "alone"
    connect_to = host.settings.broker or host.address
    name = host.definitions[0].name
    room = f"at most {host.settings.slots:,} episodes at once"
    console.print(marked("  [bold]listening[/]  {}, {}; {}", host.address, place, room))
    if url := host.settings.metrics_url(host.exporter.port):
        console.print(marked("  [bold]metrics[/]    {}", url))
    credentials, flags = ways_in(host.settings)
    console.print(
        marked('  [bold]connect[/]    async with envmesh.connect("{}"{}) as mesh:', connect_to, credentials)
    )
    console.print(
        f'                 async for trajectory in mesh.rollouts("{name}", policy, episodes=1000): …'
    )
    elsewhere = "" if connect_to == "127.0.0.1:7070" else f" --mesh {connect_to}"
    console.print(marked("  [bold]try[/]        envmesh run {}{}{}", name, elsewhere, flags))
    console.print()
    for definition in host.definitions:
        if sentence := advice(definition):
            console.print(marked("  [yellow]note[/]       {}", sentence))
            console.print()
    console.print("  Ctrl-C drains; a second one ends at once.", style="dim")
