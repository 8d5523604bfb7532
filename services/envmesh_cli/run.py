"""``envmesh run``: plays episodes, and tells how it went."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from envmesh.env import Recovery
from envmesh_cli.chosen_policy import load_policy, policy_for
from envmesh_cli.connecting import known_spec, open_mesh, run_until_interrupted
from envmesh_cli.driving import Plan, drive
from envmesh_cli.failures import FAILED, INTERRUPTED, OK, USAGE, CommandFailed
from envmesh_cli.progress_line import ProgressLine
from envmesh_cli.tables import marked, open_console, plain_table, rate, seconds, tally
from envmesh_cli.tally import Tally
from envmesh_cli.targets import looks_like_target

__all__ = ["print_tally", "run"]

DEFAULT_EPISODES = 100


def run(arguments: argparse.Namespace) -> int:
    """Play, and print the table or the JSON object."""
    if arguments.policy != "random":
        load_policy(arguments.policy)  # a mistake is told before anything starts
    if arguments.record and not arguments.record.endswith((".jsonl", ".parquet")):
        raise CommandFailed(
            f"--record {arguments.record}: a name that ends in .jsonl or .parquet is right", USAGE
        )
    if arguments.record and Path(arguments.record).exists():
        raise CommandFailed(f"--record {arguments.record}: there is such a file already; it is kept", USAGE)
    if arguments.resume and not arguments.journal:
        raise CommandFailed("--resume: name the run's --journal FILE", USAGE)
    if arguments.journal:
        there = Path(arguments.journal).exists()
        if arguments.resume and not there:
            raise CommandFailed(f"--journal {arguments.journal}: there is no such file to resume from", USAGE)
        if there and not arguments.resume:
            raise CommandFailed(
                f"--journal {arguments.journal}: there is such a file already; --resume goes on with its run, another "
                "name begins one", USAGE,
            )  # fmt: skip
    return run_until_interrupted(lambda: _run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    episodes = arguments.episodes
    if episodes is None and arguments.seconds is None:
        episodes = DEFAULT_EPISODES
    interrupted = False
    counts = Tally(arguments.environment)
    async with open_mesh(arguments, arguments.environment) as (mesh, name):
        spec = await known_spec(mesh, name)
        if mesh.journal is not None and arguments.resume and not arguments.json:
            over = sum(map(len, mesh.journal.done.values()))
            print(f"resuming: {over:,} episodes were over, {len(mesh.unfinished):,} go on")
        counts.environment = spec.key
        plan = Plan(
            environment=spec.key, policy=policy_for(arguments.policy, spec, arguments.seed), episodes=episodes,
            seconds=arguments.seconds, concurrency=arguments.concurrency, seed=arguments.seed,
            max_steps=arguments.max_steps, retries=arguments.retries, grade=arguments.grade, record=arguments.record,
        )  # fmt: skip
        try:
            async with ProgressLine(counts, episodes, arguments.seconds):
                await drive(mesh, plan, counts)
        except asyncio.CancelledError:
            interrupted = True
    if arguments.json:
        print(json.dumps(counts.report()))
    else:
        print_tally(counts, interrupted=interrupted)
        if interrupted and arguments.journal:
            lost = (
                "; its episodes of now are lost, for their class is none"
                if spec.recovery is Recovery.NONE
                else ""
            )
            print(f"--resume --journal {arguments.journal} goes on with it{lost}")
        if arguments.record:
            with_host = "" if arguments.mesh or not looks_like_target(arguments.environment) else " --host"
            print(
                f"recorded in {arguments.record}; `envmesh replay {arguments.record}{with_host}` repeats it"
            )
    if interrupted:
        return INTERRUPTED
    return FAILED if counts.failed else OK


def print_tally(counts: Tally, *, interrupted: bool = False) -> None:
    """The table, for people."""
    console = open_console()
    report = counts.report()
    words = "[bold]{}[/]  [yellow]interrupted[/]" if interrupted else "[bold]{}[/]"
    console.print(marked(words, counts.environment))
    table = plain_table("", "", "")
    steps, resets, reward = report["step_seconds"], report["reset_seconds"], report["reward"]
    table.add_row(
        "episodes",
        f"{counts.episodes:,}",
        f"{rate(counts.episodes_per_second)}/s, {counts.peak:,} at once at the peak",
    )
    table.add_row("steps", f"{counts.all_steps:,}", f"{rate(counts.steps_per_second)}/s")
    for what, found in (("step", steps), ("reset", resets)):
        table.add_row(
            f"{what} time", seconds(found["p50"]), f"p90 {seconds(found['p90'])}, p99 {seconds(found['p99'])}"
        )
    if reward["mean"] is not None:
        table.add_row(
            "reward", f"{reward['mean']:.4g}", f"mean; from {reward['min']:.4g} to {reward['max']:.4g}"
        )
    if counts.lengths:
        length = report["episode_length"]
        table.add_row("length", f"{length['mean']:.4g}", f"mean; at most {length['max']:,}")
    table.add_row("outcomes", "", tally(counts.outcomes))
    table.add_row("took", seconds(counts.seconds), "")
    table.show_header = False
    console.print(table)
    for cause, count in counts.failures.most_common():
        message = counts.messages[cause] or "no more is known"
        console.print(marked("[red]failed[/]  {} × {}: {}", f"{count:,}", cause, message))
