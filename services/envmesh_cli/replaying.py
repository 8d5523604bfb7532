"""``envmesh replay``: plays a recording again, and shows where it first goes another way."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import envmesh
from envmesh.errors import EnvmeshError, NotFound
from envmesh.mesh import Mesh
from envmesh.outcome import EnvironmentSpec, Trajectory
from envmesh.recording import read
from envmesh.replay import Difference
from envmesh_cli.connecting import connected, run_until_interrupted
from envmesh_cli.failures import FAILED, OK, USAGE, CommandFailed
from envmesh_cli.tables import marked, open_console

__all__ = ["replay"]

AT_ONCE = 32
MOST_SHOWN = 5


@dataclass(slots=True)
class _Findings:
    """What came of a recording."""

    episodes: int = 0
    different: list[tuple[Trajectory, Difference]] = field(default_factory=list)


def replay(arguments: argparse.Namespace) -> int:
    """Repeat a recording."""
    if not Path(arguments.file).is_file():
        raise CommandFailed(f"there is no file {arguments.file!r} in {Path.cwd()}", USAGE)
    try:
        trajectories = list(read(arguments.file))
    except EnvmeshError:
        raise
    except ValueError as error:
        raise CommandFailed(f"{arguments.file} is no recording: {error}", USAGE) from error
    return run_until_interrupted(lambda: _replay(arguments, trajectories))


async def _replay(arguments: argparse.Namespace, trajectories: list[Trajectory]) -> int:
    findings = _Findings()
    async with _mesh_of(arguments, trajectories) as mesh:
        served = {spec.key: spec for spec in await mesh.environments()}
        for key in dict.fromkeys(trajectory.spec.key for trajectory in trajectories):
            if key not in served:
                known = ", ".join(served) or "none"
                raise NotFound(
                    f"the recording is of {key}, which this mesh does not serve (there are: {known}); "
                    "--host starts a host for it"
                )
        waiting = iter(trajectories)
        async with asyncio.TaskGroup() as tasks:
            for number in range(min(AT_ONCE, len(trajectories))):
                tasks.create_task(_repeat(mesh, waiting, findings), name=f"replay-{number}")
    if arguments.json:
        print(json.dumps(_as_json(arguments.file, findings)))
    else:
        _print(arguments.file, findings)
    return FAILED if findings.different else OK


async def _repeat(mesh: Mesh, waiting: Iterator[Trajectory], findings: _Findings) -> None:
    for trajectory in waiting:
        difference = await envmesh.replay(mesh, trajectory)
        findings.episodes += 1
        if difference is not None:
            findings.different.append((trajectory, difference))


@asynccontextmanager
async def _mesh_of(arguments: argparse.Namespace, trajectories: list[Trajectory]) -> AsyncIterator[Mesh]:
    """The mesh that was named, or a host for what the recording names."""
    if not arguments.host:
        async with connected(arguments) as mesh:
            yield mesh
        return
    from envmesh_cli.local_mesh import LocalHost

    specs = {trajectory.spec.key: trajectory.spec for trajectory in trajectories}
    if not specs:
        raise CommandFailed(f"{arguments.file} holds no episode", USAGE)
    async with (
        LocalHost(
            [_served_as(spec) for spec in specs.values()], flags=_version_of_targets(specs.values())
        ) as host,
        envmesh.connect(host.address, plaintext=True) as mesh,
    ):
        yield mesh


def _served_as(spec: EnvironmentSpec) -> str:
    return spec.target if spec.name == spec.target else f"{spec.name}@{spec.version}={spec.target}"


def _version_of_targets(specs: Iterable[EnvironmentSpec]) -> tuple[str, ...]:
    """The flags of a host for what is named by its target, and so cannot say its version there."""
    versions = {spec.version for spec in specs if spec.name == spec.target}
    return ("--version", *versions) if len(versions) == 1 else ()


def _as_json(file: str, findings: _Findings) -> dict[str, object]:
    return {
        "file": file,
        "episodes": findings.episodes,
        "same": findings.episodes - len(findings.different),
        "different": [
            {
                "environment": trajectory.spec.key,
                "episode_id": trajectory.episode_id.hex(),
                "seed": trajectory.seed,
                "step": difference.step,
                "cause": difference.failure.cause if difference.failure is not None else None,
                "difference": str(difference),
            }
            for trajectory, difference in findings.different
        ],
    }


def _print(file: str, findings: _Findings) -> None:
    console = open_console()
    same = findings.episodes - len(findings.different)
    counts = f"{same:,} of {findings.episodes:,} episodes went the same way again"
    console.print(marked("[bold]{}[/]: {}", file, counts))
    for trajectory, difference in findings.different[:MOST_SHOWN]:
        which = f"{trajectory.spec.key}, seed {trajectory.seed}, episode {trajectory.episode_id.hex()[:8]}"
        console.print(marked("[red]different[/]  {}:\n{}", which, difference))
    if len(findings.different) > MOST_SHOWN:
        console.print(f"… and {len(findings.different) - MOST_SHOWN:,} more; --json tells all of them")
