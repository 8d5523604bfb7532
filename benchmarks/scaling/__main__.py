"""``python -m benchmarks.scaling [TRACE …]``: every policy on every trace; JSON and a picture are kept.

Each trace answers two questions. Is any rival, at any of its settings, better than our defaults in both p99 wait and
cost? And with our headroom set so that we cost no more than a rival, do we wait longer?
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.scaling.model import Cluster, Result, Trace
from benchmarks.scaling.policies import RIVALS, Envmesh
from benchmarks.scaling.traces import traces

RESULTS = Path(__file__).parents[1] / "results"
SEED = 1
GRAIN = 0.5
"""Seconds of wait that the model does not tell apart."""


def headrooms(slots: int) -> list[dict[str, Any]]:
    """Settings of ours, the defaults first: from no headroom at all to as much as the dearest rival keeps."""
    kept = {"look_back": 120.0, "min_hosts": 1}
    always = {"look_back": 0.0, "idle_after": 86400.0, "buffer_factor": 0.0}
    return [
        {},
        *({"buffer_factor": factor} for factor in (0.0, 1.0, 1.5)),
        {**kept, "buffer_factor": 0.0},
        *({"target_fill": fill} for fill in (0.95, 0.85, 0.7, 0.5)),
        *({"look_back": 20.0, "target_fill": fill} for fill in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)),
        *({**kept, "idle_after": 86400.0, "target_fill": fill} for fill in (0.7, 0.4, 0.25)),
        *(
            {**always, "buffer_min": hosts * slots, "min_hosts": hosts}
            for hosts in (1, 2, 5, 8, 10, 15, 20, 30)
        ),
    ]


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


def run(trace: Trace, workers: ProcessPoolExecutor) -> dict[str, Any]:
    """Every policy at every setting."""
    ours = [("envmesh", setting) for setting in headrooms(trace.slots)]
    rivals = [(name, setting) for name, (_, settings) in RIVALS.items() for setting in settings]
    rows = list(workers.map(play, *zip(*((trace, *each) for each in (*ours, *rivals)), strict=True)))
    return {
        "trace": trace.name, "episodes": len(trace.arrivals), "envmesh": rows[: len(ours)], "rivals": rows[len(ours) :],
    }  # fmt: skip


def play(trace: Trace, name: str, setting: Any) -> dict[str, Any]:
    """One policy on one trace."""
    policy = Envmesh(**setting) if name == "envmesh" else RIVALS[name][0](setting)
    return row(Cluster(trace, policy, SEED).run(), setting)


def better_in_both(ours, theirs) -> bool:
    """Whether a rival waits less and costs less, by more than the model's grain."""
    return theirs["wait_p99"] < ours["wait_p99"] - GRAIN and theirs["paid"] < ours["paid"]


def matched(ours, theirs) -> bool:
    """Whether some headroom of ours costs no more than a rival and waits no longer. A rival that pays less than the
    least of ours has no equal in cost."""
    return theirs["paid"] < min(one["paid"] for one in ours) or any(
        one["paid"] <= theirs["paid"] * 1.005 and one["wait_p99"] <= theirs["wait_p99"] + GRAIN
        for one in ours
    )


def keep(found: list[dict[str, Any]]) -> None:
    """Put these traces in the place of what was found on them before, and draw everything."""
    file = RESULTS / "scaling.json"
    before = json.loads(file.read_text()) if file.exists() else []
    rows = {row["trace"]: row for row in [*before, *found]}
    ordered = [rows[name] for name in traces() if name in rows]
    file.write_text(json.dumps(ordered, indent=1) + "\n")
    draw(ordered)


def main(names: list[str]) -> int:
    """Play the traces. Returns 1 where a rival is better in both."""
    made = [trace for name, trace in traces().items() if not names or name in names]
    found, beaten = [], False
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        for trace in made:
            begun = time.time()
            found.append(run(trace, workers))
            ours, rivals = found[-1]["envmesh"], found[-1]["rivals"]
            better = [r["policy"] for r in rivals if better_in_both(ours[0], r)]
            unmatched = [r["policy"] for r in rivals if not matched(ours, r)]
            beaten = beaten or bool(better)
            print(
                f"{trace.name:12} p99 {ours[0]['wait_p99']:7.1f} s  paid {ours[0]['paid']:8.1f}  used "
                f"{ours[0]['used']:8.1f}  interrupted {sum(one['interrupted'] for one in ours)}  better in both: "
                f"{', '.join(better) or 'nobody'}; at equal cost: {', '.join(unmatched) or 'nobody'}  "
                f"({time.time() - begun:.0f} s)",
                flush=True,
            )
            keep(found)
    return int(beaten)


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
                [r["wait_p99"] + GRAIN for r in rows],
                c=colour,
                marker="x",
                label=name,
            )
        for rows, size, label in (
            (trace["envmesh"][:1], 60, "envmesh"),
            (trace["envmesh"][1:], 12, "with other headroom"),
        ):
            panel.scatter(
                [r["paid"] / r["used"] for r in rows],
                [r["wait_p99"] + GRAIN for r in rows],
                c="tab:blue",
                s=size,
                label=label,
            )
        panel.set_yscale("log")
        panel.set_title(trace["trace"])
    figure.supxlabel("slot-hours paid / used (left is cheaper)")
    figure.supylabel("p99 wait for a slot, s (lower is better)")
    axes.flat[0].legend(fontsize=7)
    figure.savefig(Path(__file__).parents[2] / "docs" / "images" / "scaling.svg", metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("traces", nargs="*", metavar="TRACE", help=f"of {', '.join(traces())} (all)")
    chosen = parser.parse_args().traces
    if unknown := sorted(set(chosen) - set(traces())):
        parser.error(f"there is no trace {unknown[0]!r}; there are {', '.join(traces())}")
    sys.exit(main(chosen))
