"""``envmesh report``: the command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from envmesh.recording import read
from envmesh_cli.failures import OK, USAGE, CommandFailed
from envmesh_cli.report.gather import gather
from envmesh_cli.report.measures import measure
from envmesh_cli.report.page import render

__all__ = ["report"]


def report(arguments: argparse.Namespace) -> int:
    """Write the page of a recording."""
    source = Path(arguments.file)
    if not source.is_file():
        raise CommandFailed(f"there is no file {arguments.file!r} in {Path.cwd()}", USAGE)
    target = Path(arguments.output) if arguments.output else source.with_suffix(".html")
    if target == source:
        raise CommandFailed("the report would replace its recording; name another file with --output", USAGE)
    run = gather(read(source))
    page = render(run, measure(arguments.metrics), arguments.title or source.stem)
    partial = target.with_name(f"{target.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    if arguments.json:
        print(json.dumps({"file": str(target), "episodes": run.episodes, "bytes": target.stat().st_size}))
    else:
        print(f"{target}: {run.episodes:,} episodes, one file of {target.stat().st_size / 1024:,.0f} KiB")
    return OK
