"""One line on standard error that shows how the playing goes, where that is a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from envmesh_cli.tables import open_console, rate
from envmesh_cli.tally import Tally

__all__ = ["ProgressLine"]

REDRAW_SECONDS = 0.2


class ProgressLine:
    """Draws while its ``async with`` lasts; leaves nothing behind."""

    def __init__(self, counts: Tally, episodes: int | None, seconds: float | None):
        self._counts = counts
        self._episodes = episodes
        self._seconds = seconds
        self._console = open_console(stderr=True)
        self._drawing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._console.is_terminal:
            loop = asyncio.get_running_loop()
            self._drawing = loop.create_task(self._draw(), name="progress-line")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._drawing

    async def _draw(self) -> None:
        by_time = self._episodes is None
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rates]}"),
        ]
        if not by_time:
            columns.insert(2, MofNCompleteColumn())
        counts, started = self._counts, time.perf_counter()
        with Progress(*columns, console=self._console, transient=True, auto_refresh=False) as progress:
            task = progress.add_task(
                counts.environment, total=self._seconds if by_time else self._episodes, rates=""
            )
            while True:
                elapsed = time.perf_counter() - started
                progress.update(
                    task, completed=elapsed if by_time else counts.episodes, rates=self._rates(elapsed)
                )
                progress.refresh()
                await asyncio.sleep(REDRAW_SECONDS)

    def _rates(self, elapsed: float) -> str:
        counts = self._counts
        failed = f"  [red]{counts.failed:,} failed[/]" if counts.failed else ""
        per_second = counts.all_steps / elapsed if elapsed else 0.0
        episodes = rate(counts.episodes / elapsed if elapsed else 0.0)
        return f"{counts.live:,} at once  {rate(per_second)} steps/s  {episodes} episodes/s{failed}"
