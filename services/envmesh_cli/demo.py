"""``python -m envmesh_cli.demo`` (``make demo``): a mesh of real environments on this machine, and one trainer.

It starts a broker and five hosts in three pools, streams more than two thousand episodes at once from this one process
for half a minute, shows how that goes, proves that they were at once, and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

import envmesh
from envmesh import event_loop
from envmesh.mesh import Mesh
from envmesh_cli import demo_policies
from envmesh_cli.driving import Plan, drive
from envmesh_cli.failures import FAILED, INTERRUPTED, OK, tell
from envmesh_cli.fleet_watch import watch_views
from envmesh_cli.local_mesh import LocalMesh
from envmesh_cli.pages import read_page
from envmesh_cli.pools import PoolPlan
from envmesh_cli.tables import marked, open_console, plain_table, rate, seconds
from envmesh_cli.tally import Tally, merged
from envmesh_cli.up import LineWriter
from envmesh_service.open_files import allow_open_files

__all__ = ["main"]

WANTED_AT_ONCE = 2_000
REDRAW_SECONDS = 0.25
WATCH_SECONDS = 0.5
SETTLE_SECONDS = 1.2
"""After so long the hosts' metrics hold everything that happened."""


@dataclass(frozen=True, slots=True)
class Act:
    """One environment of the demo, and how it is played."""

    name: str
    target: str
    pool: str
    hosts: int
    at_once: int
    slots: int
    """Of each host: a little more than its part."""
    policy: Any
    meaning: str
    """What its mean reward says."""
    agent: str = ""
    """Whose reward counts, where there are several."""


ACTS = (
    Act(
        "cartpole", "gymnasium:CartPole-v1", "control", 2, 1_280, 700, demo_policies.balance,
        "steps that the pole stayed up. Policy: push where it leans",
    ),
    Act(
        "questions", "reasoning_gym:mix", "reasoning", 1, 768, 800, demo_policies.answer,
        "share of answers that are right. Policy: arithmetic, else a guess",
    ),
    Act(
        "tictactoe", "textarena:TicTacToe-v0", "games", 2, 256, 150,
        {"player_0": demo_policies.careful_player, "player_1": demo_policies.careless_player},
        "player_0 wins 1 or loses 1. Policies: careful against careless", "player_0",
    ),
)  # fmt: skip


@dataclass(slots=True)
class Proof:
    """What two sides counted at the same moments."""

    open_here: int = 0
    least_here: int = 0
    in_use_there: int = 0
    hosts: int = 0

    def note_here(self, count: int) -> None:
        """Episodes that this process has open now."""
        self.open_here = max(self.open_here, count)
        if self.open_here >= WANTED_AT_ONCE:
            self.least_here = min(self.least_here or count, count)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo. Returns 0 when every episode went well and enough were at once."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to play (30)")
    parser.add_argument("--keep", action="store_true", help="keep the mesh up afterwards, until Ctrl-C")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what the processes say")
    arguments = parser.parse_args(argv)
    allow_open_files()
    try:
        return event_loop.run(_demo(arguments))
    except BaseException as error:
        return tell(error, "demo", verbose=arguments.verbose)


async def _demo(arguments: argparse.Namespace) -> int:
    console = open_console()
    plans = [
        PoolPlan(
            name=act.pool,
            targets=(f"{act.name}={act.target}",),
            hosts=act.hosts,
            settings={"ENVMESH_HOST_SLOTS": str(act.slots)},
        )
        for act in ACTS
    ]
    hosts = sum(plan.hosts for plan in plans)
    console.print(marked("[bold]envmesh[/]: starting a broker and {} hosts in {} pools …", hosts, len(plans)))
    started = time.perf_counter()
    writer = LineWriter(open_console(stderr=True), verbose=arguments.verbose)
    async with LocalMesh(plans, tell=writer.tell, verbose=arguments.verbose) as local:
        console.print(
            f"ready after {time.perf_counter() - started:.1f} s; listening on {local.address}\n", style="dim"
        )
        async with envmesh.connect(local.address, plaintext=True) as mesh:
            counts = {act.name: Tally(act.name, agent=act.agent) for act in ACTS}
            proof = Proof()
            took = await _play(mesh, local, counts, proof, arguments.seconds)
        await asyncio.sleep(SETTLE_SECONDS)
        counted = await _scraped(local.metrics)
        whole = merged(list(counts.values()), took)
        console.print(_results(counts, whole))
        _conclude(console, proof, whole, counted, local)
        if arguments.keep:
            console.print("\n  The mesh stays up until Ctrl-C.")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return INTERRUPTED
    return _status(whole, proof)


async def _play(
    mesh: Mesh, local: LocalMesh, counts: Mapping[str, Tally], proof: Proof, length: float
) -> float:
    """All environments at once, from this process, for ``length`` seconds. Returns how long it took."""
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch(mesh, local.address, proof), name="watch-fleet")
        drawing = tasks.create_task(_draw(counts, proof, length), name="draw")
        playing = [
            tasks.create_task(
                drive(
                    mesh,
                    Plan(
                        environment=act.name,
                        policy=act.policy,
                        seconds=length,
                        concurrency=act.at_once,
                        seed=7,
                    ),
                    counts[act.name],
                ),
                name=f"play-{act.name}",
            )
            for act in ACTS
        ]
        await asyncio.wait(playing)
        drawing.cancel()
        watching.cancel()
    return time.perf_counter() - started


async def _watch(mesh: Mesh, address: str, proof: Proof) -> None:
    """What the hosts report to the broker, while we play."""
    async for view in watch_views(address, mesh, interval=WATCH_SECONDS):
        proof.in_use_there = max(proof.in_use_there, sum(host.in_use for host in view.hosts))
        proof.hosts = max(proof.hosts, sum(host.in_use > 0 for host in view.hosts))


async def _draw(counts: Mapping[str, Tally], proof: Proof, length: float) -> None:
    started = time.perf_counter()
    console = open_console()
    shown = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            elapsed = time.perf_counter() - started
            here = sum(tally.live for tally in counts.values())
            if elapsed < length - REDRAW_SECONDS:
                proof.note_here(here)
            if console.is_terminal:
                live.update(_progress(counts, elapsed, length, here), refresh=True)
            elif elapsed - shown >= 5.0:
                shown = elapsed
                steps = sum(tally.all_steps for tally in counts.values())
                console.print(f"{elapsed:5.1f} s  {here:,} episodes at once  {rate(steps / elapsed)} steps/s")
            await asyncio.sleep(REDRAW_SECONDS)


def _progress(counts: Mapping[str, Tally], elapsed: float, length: float, here: int) -> Group:
    numbers = ("at once", "episodes", "steps", "steps/s", "reward", "failed")
    table = plain_table("environment", *numbers, right=numbers)
    for name, tally in counts.items():
        steps = tally.all_steps
        reward = sum(tally.returns[-500:]) / max(1, len(tally.returns[-500:]))
        table.add_row(
            name, f"{tally.live:,}", f"{tally.episodes:,}", f"{steps:,}", rate(steps / max(elapsed, 1e-9)),
            f"{reward:.3g}", Text(f"{tally.failed:,}", style="red" if tally.failed else ""),
        )  # fmt: skip
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=length, completed=min(elapsed, length), width=40),
        Text(f"{min(elapsed, length):.0f} of {length:.0f} s"),
        marked("[bold]{}[/] episodes at once", f"{here:,}"),
    )
    return Group(Padding(table, (0, 0, 1, 2)), Padding(bar, (0, 0, 0, 2)))


async def _scraped(urls: Mapping[str, str]) -> dict[str, float]:
    """What the processes' own metrics say, summed: steps and failures."""
    texts = await asyncio.gather(*(asyncio.to_thread(_read, url) for url in urls.values()))
    sums = {"steps": 0.0, "failures": 0.0}
    for text in texts:
        for what, metric in (
            ("steps", "envmesh_step_duration_seconds_count"),
            ("failures", "envmesh_failures_total"),
        ):
            sums[what] += sum(map(float, re.findall(rf"^{metric}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)))
    return sums


def _read(url: str) -> str:
    return read_page(url, seconds=5.0).decode()


def _results(counts: Mapping[str, Tally], whole: Tally) -> Group:
    numbers = ("at once", "episodes", "steps", "steps/s", "step p50", "p99", "reward", "failed")
    table = plain_table("environment", *numbers, right=numbers)
    for name, tally in [*counts.items(), ("all", whole)]:
        report = tally.report()
        mean, latency = report["reward"]["mean"], report["step_seconds"]
        table.add_row(
            Text(name, style="bold"), f"{tally.peak:,}", f"{tally.episodes:,}", f"{tally.all_steps:,}",
            rate(tally.steps_per_second), seconds(latency["p50"]), seconds(latency["p99"]),
            f"{mean:.3g}" if mean is not None and tally is not whole else "", f"{tally.failed:,}",
        )  # fmt: skip
    meanings = [Text(f"Reward of {act.name}: {act.meaning}", style="dim") for act in ACTS]
    return Group(Padding(table, (0, 0, 1, 2)), *(Padding(line, (0, 0, 0, 2)) for line in meanings), Text())


def _conclude(
    console: Any, proof: Proof, whole: Tally, counted: Mapping[str, float], local: LocalMesh
) -> None:
    console.print(
        marked(
            "  [bold]At once[/]  {} episodes were open in this one process (after the start never fewer than {});",
            f"{proof.open_here:,}",
            f"{proof.least_here:,}",
        )
    )
    console.print(
        f"           the hosts reported {proof.in_use_there:,} slots in use to the broker, on {proof.hosts} hosts."
    )
    console.print(
        marked(
            "  [bold]Metrics[/]  the hosts' own count is {} steps, {} failures; for Prometheus at",
            f"{counted['steps']:,.0f}",
            f"{counted['failures']:,.0f}",
        )
    )
    for name, url in local.metrics.items():
        console.print(marked("           {}  [dim]{}[/]", url, name))
    console.print("           (while it runs; `make demo ARGUMENTS=--keep` keeps it up)", style="dim")
    for cause, count in whole.failures.most_common():
        message = whole.messages.get(cause, "")
        console.print(marked("  [red]Failed[/]   {} × {}: {}", f"{count:,}", cause, message))


def _status(whole: Tally, proof: Proof) -> int:
    if whole.failed:
        sys.stderr.write(f"envmesh demo: {whole.failed:,} episodes failed\n")
        return FAILED
    if proof.open_here < WANTED_AT_ONCE:
        sys.stderr.write(
            f"envmesh demo: only {proof.open_here:,} episodes were at once, not {WANTED_AT_ONCE:,}\n"
        )
        return FAILED
    return OK


if __name__ == "__main__":
    sys.exit(main())
