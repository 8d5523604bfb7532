"""How commands reach a mesh: the one that was named, or a host of their own for a target."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import envmesh
from envmesh import event_loop
from envmesh.mesh import Mesh
from envmesh.outcome import EnvironmentSpec
from envmesh.target import split_target
from envmesh_cli.command_arguments import DEFAULT_MESH
from envmesh_cli.failures import INTERRUPTED, USAGE, CommandFailed
from envmesh_cli.targets import declaration_flags, looks_like_target
from envmesh_service.open_files import allow_open_files

__all__ = ["connected", "known_spec", "mesh_address", "open_mesh", "run_until_interrupted"]

CONNECT_SECONDS = 5.0
"""Shorter than a trainer's patience: a person waits."""


def mesh_address(arguments: argparse.Namespace) -> str:
    """Where the mesh is: what the command line says, else ``$ENVMESH_MESH``, else this machine's."""
    return arguments.mesh or os.environ.get("ENVMESH_MESH") or DEFAULT_MESH


def connected(arguments: argparse.Namespace, address: str | None = None) -> Mesh:
    """A client of the mesh that was named; enter it.

    Raises:
        CommandFailed: the address cannot be one.
    """
    target = address or mesh_address(arguments)
    try:
        return envmesh.connect(
            target,
            token=arguments.token,
            token_file=arguments.token_file,
            tls=True if arguments.tls else None,
            ca=arguments.ca,
            certificate=arguments.certificate,
            private_key=arguments.private_key,
            plaintext=arguments.plaintext,
            journal=getattr(arguments, "journal", None),
            connect_timeout=CONNECT_SECONDS,
        )
    except ValueError as error:
        raise CommandFailed(f"--mesh: {error}", USAGE) from None


@asynccontextmanager
async def open_mesh(arguments: argparse.Namespace, text: str) -> AsyncIterator[tuple[Mesh, str]]:
    """A client, and the name of the environment that ``text`` means there.

    A target (where no mesh was named) gets a host of its own, which ends with the ``async with``.

    Raises:
        CommandFailed: that host could not start. TargetError: the target cannot be one.
    """
    if arguments.mesh is not None or not looks_like_target(text):
        async with connected(arguments) as mesh:
            yield mesh, text
        return
    from envmesh_cli.local_mesh import LocalHost

    name, target = split_target(text)
    flags = declaration_flags(arguments)
    settings = {}
    if arguments.slots is None:
        settings["ENVMESH_HOST_UNDECLARED_SLOTS"] = str(min(64, largest_concurrency(arguments)))
    async with (
        LocalHost([text], flags=flags, settings=settings) as host,
        envmesh.connect(host.address, plaintext=True, journal=getattr(arguments, "journal", None)) as mesh,
    ):
        specs = await mesh.environments()
        yield mesh, specs[0].key if specs else (name or target)


async def known_spec(mesh: Mesh, name: str) -> EnvironmentSpec:
    """What an environment is. Where a pool has no host yet, nobody knows its spaces: an episode brings one up."""
    spec = await mesh.describe(name)
    unseen = all(
        not pool.ready_hosts
        for pool in await mesh.pools()
        if spec.key in (f"{info.name}@{info.version}" for info in pool.environments)
    )
    if not unseen:
        return spec
    async with mesh.episode(spec.key):
        return await mesh.describe(name)


def largest_concurrency(arguments: argparse.Namespace) -> int:
    """How many episodes at once the command will ask for."""
    asked = arguments.concurrency
    return max(asked) if isinstance(asked, list) else int(asked)


def run_until_interrupted(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a command's coroutine; one that was interrupted and said so returns its own status."""
    allow_open_files()
    try:
        return event_loop.run(work())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
