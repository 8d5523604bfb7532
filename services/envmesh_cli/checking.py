"""``envmesh check``: the front of ``envmesh_cli.check``."""

from __future__ import annotations

import argparse

from rich.text import Text

from envmesh_cli.check import render, run_check
from envmesh_cli.own_output import own_output
from envmesh_cli.tables import open_console
from envmesh_cli.targets import declarations, load_targets

__all__ = ["check"]


def check(arguments: argparse.Namespace) -> int:
    """Judge an environment, and print the report."""
    declared = declarations(arguments)
    with own_output():
        (definition,) = load_targets([arguments.target], declared)
    words = f"checking {definition.key}"
    with open_console(stderr=True).status(Text(words)) as status:
        report = run_check(
            definition,
            episodes=arguments.episodes,
            seed=arguments.seed,
            seconds=arguments.seconds,
            progress=lambda measure: status.update(Text(f"{words}: {measure}")),
        )
    if arguments.json:
        print(report.to_json())
    else:
        open_console().print(render(report))
    return report.exit_status
