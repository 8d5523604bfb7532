"""``envmesh envs`` and ``envmesh describe``: what a mesh serves."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.padding import Padding

from envmesh.env import Task
from envmesh.outcome import EnvironmentSpec
from envmesh.space_words import describe_message
from envmesh.v1 import placement_pb2
from envmesh_cli.connecting import connected, mesh_address, run_until_interrupted
from envmesh_cli.failures import OK
from envmesh_cli.tables import marked, open_console, plain_table, seconds

__all__ = ["describe", "envs"]

PROMISES = {
    "none": "ends as aborted when its host is lost",
    "replay": "is rebuilt from seed and actions when its host is lost",
    "state": "is rebuilt from its last checkpoint when its host is lost",
}
LONGEST_PROMPT = 300


def envs(arguments: argparse.Namespace) -> int:
    """List every environment, and the pools that serve it."""
    return run_until_interrupted(lambda: _envs(arguments))


async def _envs(arguments: argparse.Namespace) -> int:
    async with connected(arguments) as mesh:
        pools = await mesh.pools()
    rows = [(EnvironmentSpec(info), pool) for pool in pools for info in pool.environments]
    rows.sort(key=lambda row: (row[0].key, row[1].name))
    if arguments.json:
        print(json.dumps({"environments": [_row(spec, pool) for spec, pool in rows]}))
        return OK
    console = open_console()
    if not rows:
        console.print(f"{mesh_address(arguments)} serves nothing now: no host has registered")
        return OK
    table = plain_table("environment", "pool", "hosts", "slots", "leased", "isolation", "recovery", "target",
                        right=("hosts", "slots", "leased"))  # fmt: skip
    for spec, pool in rows:
        table.add_row(
            spec.key, pool.name, str(pool.ready_hosts), f"{_slots(spec, pool):,}", f"{pool.leased:,}",
            spec.isolation.value, spec.recovery.value, spec.target,
        )  # fmt: skip
    console.print(table)
    return OK


def _row(spec: EnvironmentSpec, pool: placement_pb2.Pool) -> dict[str, Any]:
    return {
        "environment": spec.key,
        "target": spec.target,
        "pool": pool.name,
        "hosts": pool.ready_hosts,
        "slots": _slots(spec, pool),
        "leased": pool.leased,
        "queued": pool.queued,
        "isolation": spec.isolation.value,
        "recovery": spec.recovery.value,
        "agents": list(spec.agents),
        "summary": spec.summary,
    }


def _slots(spec: EnvironmentSpec, pool: placement_pb2.Pool) -> int:
    """How many episodes of the environment there can be at once: one that declares nothing has few."""
    bounds = {bound.environment: bound.slots for bound in pool.environment_slots}
    return bounds.get(spec.key, pool.slots)


def describe(arguments: argparse.Namespace) -> int:
    """Tell what is known of one environment."""
    return run_until_interrupted(lambda: _describe(arguments))


async def _describe(arguments: argparse.Namespace) -> int:
    async with connected(arguments) as mesh:
        spec = await mesh.describe(arguments.environment)
        tasks: list[Task] = []
        if spec.has_tasks and arguments.tasks:
            tasks = await mesh.tasks(spec.key, limit=arguments.tasks)
    if arguments.json:
        print(json.dumps(described(spec, tasks)))
    else:
        _print(spec, tasks)
    return OK


def described(spec: EnvironmentSpec, tasks: list[Task]) -> dict[str, Any]:
    """What is known of an environment, as one JSON object."""
    info = spec.message
    return {
        "environment": spec.key,
        "target": spec.target,
        "build": spec.build,
        "summary": spec.summary,
        "observation_space": _space(info, "observation_space"),
        "action_space": _space(info, "action_space"),
        "agents": list(spec.agents),
        "recovery": spec.recovery.value,
        "isolation": spec.isolation.value,
        "options": list(spec.options),
        "seeded": spec.seeded,
        "grades": spec.grades,
        "checkpoints": spec.checkpoints,
        "reseeds": info.reseeds,
        "deterministic": info.deterministic,
        "limits": {
            "reset_seconds": spec.limits.reset_seconds,
            "step_seconds": spec.limits.step_seconds,
            "reward_seconds": spec.limits.reward_seconds,
        },
        "has_tasks": spec.has_tasks,
        "tasks": [
            {"id": task.id, "split": task.split, "prompt": task.prompt, "metadata": dict(task.metadata)}
            for task in tasks
        ],
    }  # fmt: skip


def _print(spec: EnvironmentSpec, tasks: list[Task]) -> None:
    console = open_console()
    info, limits = spec.message, spec.limits
    target = spec.target if spec.target != spec.name else ""
    console.print(marked("[bold]{}[/]  [dim]{}[/]", spec.key, target))
    if spec.summary:
        console.print(Padding(spec.summary, (0, 0, 0, 2)))
    table = plain_table("", "")
    table.show_header = False
    table.columns[1].no_wrap = False
    table.add_row("observation", _space(info, "observation_space"))
    table.add_row("action", _space(info, "action_space"))
    if spec.agents:
        table.add_row("agents", ", ".join(spec.agents))
    recovery = spec.recovery.value
    table.add_row("isolation", marked("{} [dim](where its code runs)[/]", spec.isolation.value))
    table.add_row("recovery", marked("{} [dim](an episode {})[/]", recovery, PROMISES[recovery]))
    table.add_row("seed", "honoured" if spec.seeded else "refused")
    table.add_row("options", ", ".join(spec.options) or "none")
    extras = [word for word, there in (("reward()", spec.grades), ("checkpoint()", spec.checkpoints),
                                       ("reseed()", info.reseeds), ("tasks()", spec.has_tasks)) if there]  # fmt: skip
    table.add_row("offers", ", ".join(extras) or "reset and step")
    table.add_row(
        "limits", f"reset {seconds(limits.reset_seconds)}, step {seconds(limits.step_seconds)}, "
        f"reward {seconds(limits.reward_seconds)}"
    )  # fmt: skip
    table.add_row("build", spec.build[:16] or "unknown")
    console.print(Padding(table, (0, 0, 0, 2)))
    for task in tasks:
        console.print(marked("  [bold]task[/] {} [dim]({})[/]", task.id, task.split))
        if task.prompt is not None:
            prompt = task.prompt if isinstance(task.prompt, str) else json.dumps(task.prompt, default=str)
            short = prompt if len(prompt) <= LONGEST_PROMPT else f"{prompt[:LONGEST_PROMPT]}…"
            console.print(Padding(short, (0, 0, 0, 4)))


def _space(info: Any, field: str) -> str:
    return describe_message(getattr(info, field)) if info.HasField(field) else "any value"
