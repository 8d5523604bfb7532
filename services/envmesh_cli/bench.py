"""``envmesh bench``: how many steps a second, and how late, at several concurrencies."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from rich.console import Console

from envmesh.mesh import Mesh
from envmesh_cli.chosen_policy import load_policy, policy_for
from envmesh_cli.connecting import open_mesh, run_until_interrupted
from envmesh_cli.driving import Plan, drive
from envmesh_cli.failures import FAILED, OK, USAGE, CommandFailed
from envmesh_cli.progress_line import ProgressLine
from envmesh_cli.tables import marked, open_console, plain_table, rate, seconds
from envmesh_cli.tally import Tally

__all__ = ["bench"]

ECHO = "echo=envmesh_environments.echo:Echo"
WARM_UP_SECONDS = 0.3


def bench(arguments: argparse.Namespace) -> int:
    """Measure, and print the table or the JSON object."""
    if arguments.environment is None and arguments.mesh is not None:
        raise CommandFailed(
            "--mesh goes with the name of an environment there (`envmesh envs` lists them)", USAGE
        )
    if arguments.policy != "random":
        load_policy(arguments.policy)
    return run_until_interrupted(lambda: _bench(arguments))


async def _bench(arguments: argparse.Namespace) -> int:
    echo = arguments.environment is None
    console = open_console(stderr=arguments.json)
    results: list[Tally] = []
    async with open_mesh(arguments, ECHO if echo else arguments.environment) as (mesh, name):
        spec = await mesh.describe(name)
        policy = (
            _echo_policy()
            if echo and arguments.policy == "random"
            else policy_for(arguments.policy, spec, arguments.seed)
        )
        await drive(
            mesh, Plan(environment=spec.key, policy=policy, seconds=WARM_UP_SECONDS, seed=0), Tally(spec.key)
        )
        for concurrency in arguments.concurrency:
            plan = Plan(
                environment=spec.key, policy=policy, seconds=arguments.seconds, concurrency=concurrency,
                seed=arguments.seed, max_steps=arguments.max_steps, measure=False,
            )  # fmt: skip
            results.append(await _measured(mesh, plan, arguments.seconds))
    if arguments.json:
        measured = [
            {"concurrency": n, **r.report()} for n, r in zip(arguments.concurrency, results, strict=True)
        ]
        print(json.dumps({"environment": spec.key, "measured": measured}))
    else:
        _print(console, spec.key, arguments.concurrency, results)
    return FAILED if any(counts.failed for counts in results) else OK


async def _measured(mesh: Mesh, plan: Plan, length: float) -> Tally:
    """Rates first, at full speed; then, for a third as long, the time of each step."""
    counts, timed = Tally(plan.environment), Tally(plan.environment)
    async with ProgressLine(counts, None, length):
        await drive(mesh, plan, counts)
    async with ProgressLine(timed, None, length / 3):
        await drive(mesh, replace(plan, measure=True, seconds=length / 3), timed)
    if not counts.steps:
        return timed  # no episode was over in time: only timed steps are counted before their episode ends
    counts.step_seconds = timed.step_seconds[: counts.steps]
    return counts


def _echo_policy() -> Any:
    """Sends 50 bytes, and holds every observation against what must come back.

    Raises (when called): ValueError, an observation is not the answer to 50 bytes.
    """
    from envmesh_environments.echo import ACTION_BYTES, observation_of

    action = bytes(range(ACTION_BYTES))
    answer = observation_of(action)
    half = ACTION_BYTES

    def act(observation: bytes) -> bytes:
        if observation != answer and observation[:half] != observation[half:][::-1]:
            raise ValueError(f"the echo is wrong: {observation!r}")
        return action

    return act


def _print(console: Console, environment: str, concurrencies: list[int], results: list[Tally]) -> None:
    console.print(
        marked(
            "[bold]{}[/]  [dim]server and client share this machine's cores; one trainer process[/]",
            environment,
        )
    )
    numbers = ("at once", "steps/s", "step p50", "p90", "p99", "reset p50", "episodes", "failed")
    table = plain_table(*numbers, right=numbers)
    for concurrency, counts in zip(concurrencies, results, strict=True):
        report = counts.report()
        steps = report["step_seconds"]
        table.add_row(
            f"{concurrency:,}", rate(counts.steps_per_second),
            *(seconds(steps[quantile]) for quantile in ("p50", "p90", "p99")),
            seconds(report["reset_seconds"]["p50"]), f"{counts.episodes:,}", f"{counts.failed:,}",
        )  # fmt: skip
    console.print(table)
