"""``python -m benchmarks.scaling [TRACE …]``: every policy on every trace; JSON and a picture are kept."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.scaling.model import Cluster, Result, Trace
from benchmarks.scaling.policies import RIVALS, Envmesh
from benchmarks.scaling.traces import traces

RESULTS = Path(__file__).parents[1] / "results"
OURS: tuple[dict[str, Any], ...] = ({}, {"look_back": 60.0, "idle_after": 60.0})
SEED = 1


def row(result: Result, setting) -> dict[str, Any]:
    return {
        "policy": result.policy,
        "setting": setting,
        "wait_p50": round(result.wait(0.5), 2),
        "wait_p99": round(result.wait(0.99), 2),
        "paid": round(result.paid, 1),
        "used": round(result.used, 1),
        "interrupted": result.interrupted,
        "lost_to_machines": result.lost,
    }


def run(trace: Trace) -> dict[str, Any]:
    ours = [row(Cluster(trace, Envmesh(**setting), SEED).run(), setting) for setting in OURS]
    rivals = [
        row(Cluster(trace, make(setting), SEED).run(), setting)
        for make, settings in RIVALS.values()
        for setting in settings
    ]
    return {"trace": trace.name, "episodes": len(trace.arrivals), "envmesh": ours, "rivals": rivals}


def better_in_both(ours, theirs) -> bool:
    """Whether a rival waits less and costs less, by more than the model's grain."""
    return theirs["wait_p99"] < ours["wait_p99"] - 0.5 and theirs["paid"] < ours["paid"]


def keep(found: list[dict[str, Any]]) -> None:
    """Put these traces in the place of what was found on them before, and draw everything."""
    file = RESULTS / "scaling.json"
    before = json.loads(file.read_text()) if file.exists() else []
    rows = {row["trace"]: row for row in [*before, *found]}
    ordered = [rows[name] for name in traces() if name in rows]
    file.write_text(json.dumps(ordered, indent=1) + "\n")
    draw(ordered)


def main(names: list[str]) -> int:
    made = [trace for name, trace in traces().items() if not names or name in names]
    found = []
    for trace in made:
        begun = time.time()
        found.append(run(trace))
        best = found[-1]["envmesh"][0]
        beaten = [
            r["policy"] for r in found[-1]["rivals"] if better_in_both(best, r) and not r["interrupted"]
        ]
        hurting = [r["policy"] for r in found[-1]["rivals"] if better_in_both(best, r) and r["interrupted"]]
        print(
            f"{trace.name:12} p99 {best['wait_p99']:7.1f} s  paid {best['paid']:8.1f}  used {best['used']:8.1f}  "
            f"interrupted {best['interrupted']}  better in both: {beaten or 'nobody'}"
            f"{f'; by interrupting: {hurting}' if hurting else ''}  ({time.time() - begun:.0f} s)",
            flush=True,
        )
        keep(found)
    return 0


def draw(found) -> None:
    """Waiting time against cost, one panel a trace."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "envmesh"
    figure, axes = plt.subplots(3, 4, figsize=(14, 9), constrained_layout=True)
    colours = dict(
        zip(RIVALS, ("tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown"), strict=True)
    )
    for panel, trace in zip(axes.flat, found, strict=False):
        for name, colour in colours.items():
            rows = [r for r in trace["rivals"] if r["policy"].startswith(name)]
            panel.scatter(
                [r["paid"] / max(r["used"], 1e-9) for r in rows],
                [r["wait_p99"] + 0.5 for r in rows],
                c=colour,
                marker="x",
                label=name,
            )
        rows = trace["envmesh"]
        panel.scatter(
            [r["paid"] / r["used"] for r in rows],
            [r["wait_p99"] + 0.5 for r in rows],
            c="tab:blue",
            label="envmesh",
        )
        panel.set_yscale("log")
        panel.set_title(trace["trace"])
    figure.supxlabel("slot-hours paid / used (left is cheaper)")
    figure.supylabel("p99 wait for a slot, s (lower is better)")
    axes.flat[0].legend(fontsize=7)
    figure.savefig(Path(__file__).parents[2] / "docs" / "images" / "scaling.svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
