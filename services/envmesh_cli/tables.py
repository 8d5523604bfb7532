"""Tables and numbers as the command line shows them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions
from rich.markup import escape
from rich.table import Table
from rich.text import Text

__all__ = ["FittingTable", "count", "marked", "open_console", "plain_table", "rate", "seconds", "tally"]

WIDTH_ELSEWHERE = 200
"""Columns where the output is no terminal: nothing is cut for a pipe."""
GAP = 2
"""Between two columns of a table."""
SHORT_NAME = 20
"""To so much a name is shortened before a column is left out for it; several words are given so much of a line."""


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
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, GAP, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column != "target")
    return table


class FittingTable:
    """A table that fits its terminal without cutting a number. The first column holds names, which are shortened in
    their middle; of ``spare``, columns are left out in that order; words in those of ``wrapped`` go on the next line.
    """

    def __init__(
        self,
        *columns: str,
        right: tuple[str, ...] = (),
        spare: tuple[str, ...] = (),
        wrapped: tuple[str, ...] = (),
    ):
        self._columns, self._right, self._spare, self._wrapped = columns, right, spare, wrapped
        self._rows: list[dict[str, Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row, with a cell for each column."""
        texts = (cell if isinstance(cell, Text) else Text(cell) for cell in cells)
        self._rows.append(dict(zip(self._columns, texts, strict=True)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        name = self._columns[0]
        widths = {column: self._width(column) for column in self._columns}
        least = {**widths, name: min(widths[name], SHORT_NAME)}
        shown = fitting(least, self._spare, options.max_width)
        rest = sum(GAP + least[column] for column in shown[1:])
        table = plain_table(*shown, right=self._right)
        for column in table.columns:
            column.no_wrap = column.header not in self._wrapped
        for row in self._rows:
            first = shortened(row[name].plain, max(options.max_width - rest, 1))
            table.add_row(Text(first, style=row[name].style), *(row[column] for column in shown[1:]))
        yield table

    def _width(self, column: str) -> int:
        widest = max((row[column].cell_len for row in self._rows), default=0)
        return max(len(column), min(widest, SHORT_NAME) if column in self._wrapped else widest)


def fitting(widths: Mapping[str, int], spare: Sequence[str], room: int) -> list[str]:
    """The columns, of these widths, that are shown within ``room``; those of ``spare`` are left out one by one."""
    shown = list(widths)
    for column in spare:
        if sum(widths[each] for each in shown) + GAP * (len(shown) - 1) <= room:
            break
        shown.remove(column)
    return shown


def shortened(name: str, room: int) -> str:
    """A name that fits, without its middle: how it begins and how it ends tells it from others."""
    if len(name) <= room:
        return name
    begin = (room - 1) // 2
    return f"{name[:begin]}…{name[len(name) - (room - 1 - begin) :]}"


def seconds(value: float | None) -> str:
    """A duration with three digits: ``850 µs``, ``1.25 ms``, ``3.1 s``."""
    if value is None or math.isnan(value):
        return "–"
    for scale, unit in ((1e-6, "µs"), (1e-3, "ms")):
        if value < 999.5 * scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def count(value: int | None) -> str:
    """How many: ``12,345``."""
    return "–" if value is None else f"{value:,}"


def rate(value: float | None) -> str:
    """Something per second: ``12,345`` or ``4.2``."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def tally(counts: Mapping[str, int]) -> str:
    """``terminated 97, truncated 3``."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
