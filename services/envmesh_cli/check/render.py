"""A report for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envmesh_cli.check.report import Report, Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["render"]

_STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red", Verdict.SKIP: "dim"}


def render(report: Report) -> RenderableType:
    """The report as something that a ``rich`` console prints: a line a finding, and what to do below it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    declared = report.declaration
    head = Text.assemble(
        (f"{report.name}@{report.version}", "bold"), f"  {report.target}  build {report.build}"
    )
    said = Text(
        f"recovery {declared['recovery']}, isolation {declared['isolation']}"
        + ("" if declared["declared"] else " (nothing declared: the safe choices)"),
        style="dim",
    )
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        evidence = Text(finding.evidence)
        if finding.advice:
            evidence.append(f"\n{finding.advice}", style="italic cyan")
        table.add_row(
            Text(finding.verdict.value, style=_STYLES[finding.verdict]), Text(finding.name), evidence
        )
    counts = ", ".join(
        f"{report.count(verdict)} {verdict.value}" for verdict in Verdict if report.count(verdict)
    )
    verdict = "do not train on it yet" if report.exit_status else "fit to train on"
    if not report.judged:
        verdict = "not judged"
    tail = Text(
        f"{counts} in {report.seconds:.1f} s: {verdict}",
        style="bold red" if report.exit_status else "bold green",
    )
    return Group(head, said, Text(), table, Text(), tail)
