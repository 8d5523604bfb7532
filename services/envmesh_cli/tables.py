"""Tables and numbers as the command line shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

__all__ = ["marked", "open_console", "plain_table", "rate", "seconds", "tally"]

WIDTH_ELSEWHERE = 200
"""Columns where the output is no terminal: nothing is cut for a pipe."""


def open_console(*, stderr: bool = False) -> Console:
    """Where people read; numbers are not coloured. What is printed as a string is shown as it is, brackets and all: it
    may hold a target, a path or a space. ``marked`` makes words with styles."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH_ELSEWHERE
    return console


def marked(words: str, *values: object) -> Text:
    """``words`` with its markup, as ``[bold]{}[/]``; each ``{}`` is filled with a value, in which brackets are none."""
    return Text.from_markup(words.format(*(escape(str(value)) for value in values)), emoji=False)


def plain_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without frame; the columns named in ``right`` hold numbers."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column != "target")
    return table


def seconds(value: float | None) -> str:
    """A duration with three digits: ``850 µs``, ``1.25 ms``, ``3.1 s``."""
    if value is None or math.isnan(value):
        return "–"
    for scale, unit in ((1e-6, "µs"), (1e-3, "ms")):
        if value < 999.5 * scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def rate(value: float) -> str:
    """Something per second: ``12,345`` or ``4.2``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def tally(counts: Mapping[str, int]) -> str:
    """``terminated 97, truncated 3``."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
