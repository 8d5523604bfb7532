"""What a run leaves behind: JSON, a table in Markdown, and a plot."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.latency import Latency
from benchmarks.peers import Role
from benchmarks.processes import ROOT
from benchmarks.ratios import median_rate, percentile, ratios
from benchmarks.steps import Line, Plan

RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"


def machine() -> dict[str, Any]:
    """Where and with what it ran."""
    versions = {name: importlib.metadata.version(name) for name in ("grpcio", "protobuf", "uvloop")}
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = (
        line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name")
    )
    return next(names, platform.processor())


def write_steps(plan: Plan, lines: Sequence[Line]) -> str:
    """Write ``steps.json``, ``steps.md`` and ``steps.svg``, and return the tables."""
    tables = steps_tables(plan, lines)
    described = {
        "machine": machine(),
        "plan": dataclasses.asdict(plan),
        "lines": [_line(line) for line in lines],
        "ratios": [dataclasses.asdict(ratio) for ratio in ratios(lines)],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "steps.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "steps.md").write_text(tables, encoding="utf-8")
    plot(lines, plan.concurrencies, IMAGES / "steps.svg")
    return tables


def _line(line: Line) -> dict[str, Any]:
    return {
        "name": line.peer.name,
        "title": line.peer.title,
        "role": line.peer.role,
        "form": line.peer.form,
        "failure": line.failure,
        "concurrency": {
            str(concurrency): {
                "steps_per_second": {
                    "median": median_rate(line, concurrency),
                    "rounds": rounds.steps_per_second,
                },
                "step_seconds": {
                    f"p{share}": percentile(rounds.latencies, share / 100) for share in (50, 99)
                },
            }
            for concurrency, rounds in line.rounds.items()
        },
    }


def steps_tables(plan: Plan, lines: Sequence[Line]) -> str:
    """Steps per second, then the ratios, as Markdown."""
    heads = [f"{concurrency:,}" for concurrency in plan.concurrencies]
    rows = [
        [line.peer.title, *(_rate(line, concurrency) for concurrency in plan.concurrencies), _step(line)]
        for line in lines
    ]
    rates = _table(["steps/s at episodes:", *heads, "step p50 at 1"], rows)
    titles = {line.peer.name: line.peer.title for line in lines}
    compared = [
        [
            titles[ratio.ours],
            f"{titles[ratio.other]} ({ratio.kind})",
            f"{ratio.concurrency:,}",
            f"**{ratio.median:.3g}**",
            f"{ratio.least:.3g} to {ratio.most:.3g}",
        ]
        for ratio in ratios(lines)
    ]
    if not compared:
        return rates
    return rates + "\n" + _table(["envmesh", "against", "episodes", "ratio", "range of rounds"], compared)


def _rate(line: Line, concurrency: int) -> str:
    rate = median_rate(line, concurrency)
    if rate is None:
        return "failed" if line.failure else "–"
    return f"{rate:,.0f}"


def _step(line: Line) -> str:
    p50 = percentile(line.rounds[1].latencies, 0.5) if 1 in line.rounds else None
    return f"{p50 * 1e6:,.0f} µs" if p50 else "–"


def write_latency(plan: Plan, latencies: Sequence[Latency]) -> str:
    """Write ``latency.json`` and ``latency.md``, and return the table."""
    rows = [
        [
            found.name,
            f"`{found.experiments}`" if found.experiments else "as it comes",
            f"{found.p50 * 1e6:,.0f} µs" if found.p50 else "–",
            f"{found.p99 * 1e6:,.0f} µs" if found.p99 else "–",
            f"{found.times_echo:.2f}" if found.times_echo else "–",
            f"{found.steps_per_second:,.0f}" if found.steps_per_second else "–",
        ]
        for found in latencies
    ]
    heads = ["line", "GRPC_EXPERIMENTS", "step p50 at 1", "p99", "times the echo's p50", "steps/s at 1,024"]
    table = _table(heads, rows)
    described = {
        "machine": machine(),
        "plan": dataclasses.asdict(plan),
        "lines": [dataclasses.asdict(found) for found in latencies],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latency.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "latency.md").write_text(table, encoding="utf-8")
    return table


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "| " + " | ".join(heads) + " |\n"
    rule = "|---" + "|---:" * (len(heads) - 1) + "|\n"
    return head + rule + "".join("| " + " | ".join(row) + " |\n" for row in rows)


def plot(lines: Sequence[Line], concurrencies: Sequence[int], path: Path) -> None:
    """Steps per second over concurrency, both logarithmic, with the range of rounds."""
    import matplotlib as mpl  # takes a second, and the rest needs none of it

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    looks: dict[Role, dict[str, Any]] = {
        Role.OURS: {"linewidth": 2.4, "marker": "o"},
        Role.PEER: {"linewidth": 1.6, "marker": "s"},
        Role.REFERENCE: {"linewidth": 1.0, "marker": ".", "linestyle": "--"},
        Role.LIMIT: {"linewidth": 1.0, "marker": ".", "linestyle": ":", "color": "0.45"},
    }
    figure, axes = plt.subplots(figsize=(9, 5.5))
    for line in lines:
        measured = [(at, line.rounds[at].steps_per_second) for at in concurrencies if at in line.rounds]
        if not measured:
            continue
        places = [at for at, _ in measured]
        (drawn,) = axes.plot(
            places,
            [median_rate(line, at) or 0.0 for at in places],
            label=line.peer.title,
            **looks[line.peer.role],
        )
        axes.fill_between(
            places, [min(rates) for _, rates in measured], [max(rates) for _, rates in measured],
            color=drawn.get_color(), alpha=0.12, linewidth=0,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="concurrent episodes", ylabel="steps per second")
    axes.set_xticks(concurrencies, [f"{at:,}" for at in concurrencies])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.set_title("An echo environment: server on one core, client on another")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
