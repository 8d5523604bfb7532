"""Run the benchmarks: ``python -m benchmarks [steps|latency ...] [--quick]``; see README.md."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import Sequence

from benchmarks import latency, report, setup_peers, steps
from benchmarks.peers import PEERS

BENCHMARKS = ("steps", "latency")


def main() -> int:
    """Run what is asked for, and print the tables."""
    arguments = _parser().parse_args()
    plan = _plan(arguments)
    if not arguments.no_setup:
        _set_up(plan.names)
    for benchmark in arguments.benchmarks or BENCHMARKS:
        if benchmark == "steps":
            print(report.write_steps(plan, asyncio.run(steps.run(plan))))
        else:
            print(report.write_latency(plan, asyncio.run(latency.measure(plan))))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "benchmarks", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(BENCHMARKS)}; default: all"
    )
    parser.add_argument(
        "--quick", action="store_true", help="two short rounds: about 90 seconds, figures to glance at"
    )
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, metavar="NAME", help=f"only these of {', '.join(PEERS)}"
    )
    parser.add_argument("--concurrency", nargs="+", type=int, metavar="N", help="default: 1 64 1024 4096")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5")
    parser.add_argument("--seconds", type=float, metavar="T", help="of a round; default: 1.2")
    parser.add_argument("--grpc-experiments", default="", metavar="LIST",
                        help="GRPC_EXPERIMENTS of every process of `steps`; default: %(default)s")  # fmt: skip
    parser.add_argument(
        "--no-setup", action="store_true", help="do not make missing virtual environments of peers"
    )
    return parser


def _plan(arguments: argparse.Namespace) -> steps.Plan:
    plan = steps.Plan(experiments=arguments.grpc_experiments)
    if arguments.quick:
        plan = dataclasses.replace(plan, concurrencies=(1, 1024), rounds=2, seconds=0.5, warm_up=0.2)
    chosen = {
        "names": arguments.peers,
        "concurrencies": arguments.concurrency,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
    }
    return dataclasses.replace(plan, **{name: value for name, value in chosen.items() if value})


def _set_up(names: Sequence[str]) -> None:
    """Make what is missing; a peer whose packages cannot be had fails later, by name, and the others run."""
    for home in {PEERS[name].home: PEERS[name] for name in names if PEERS[name].home}.values():
        try:
            print(f"{home.home}: {setup_peers.make(home)}", flush=True)
        except (OSError, LookupError, subprocess.SubprocessError) as error:
            print(f"{home.home}: not made: {error}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
