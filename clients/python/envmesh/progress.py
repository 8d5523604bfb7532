"""Progress of rollouts on standard error: a bar in a terminal, a line every few seconds elsewhere.

It is moved by the episodes themselves: there is no thread and no timer, and most episodes cost two additions and one
look at the clock.
"""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

from envmesh.outcome import Trajectory

__all__ = ["Progress"]

REDRAW_SECONDS = 0.15
LINE_SECONDS = 5.0
BAR_CELLS = 24
SMOOTHING_SECONDS = 5.0


class _Display(Protocol):
    interval: float

    def show(self, progress: Progress, last: bool) -> None: ...


class Progress:
    """Counts episodes and shows them. ``episodes`` is how many are asked for, None where that is open."""

    def __init__(self, environment: str, episodes: int | None, *, stream: TextIO | None = None):
        self.environment = environment
        self.episodes = episodes
        self.done = 0
        self.failed = 0
        self.steps = 0
        self.live = 0
        self.seconds = 0.0
        self.episodes_per_second = 0.0
        self.steps_per_second = 0.0
        self._stream = stream
        self._display: _Display | None = None
        self._started = self._shown = self._due = 0.0
        self._shown_counts = (0, 0)

    def start(self) -> None:
        """Begin to count time, and show the empty bar."""
        self._started = self._shown = time.monotonic()
        display = self._display = _display(self._stream or sys.stderr)
        if display is not None:
            self._due = self._started + display.interval
            if not isinstance(display, _Lines):
                self._draw(display, False)

    def advance(self, trajectory: Trajectory, live: int) -> None:
        """One more episode is over, and ``live`` are being played now."""
        self.done += 1
        self.steps += len(trajectory.rewards)
        if trajectory.failure is not None:
            self.failed += 1
        self.live = live
        if time.monotonic() >= self._due:
            self._show(False)

    def close(self) -> None:
        """Show the final counts and leave the line."""
        if self._display is None:
            return
        self.live = 0
        self._show(True)
        self._display = None

    @property
    def remaining_seconds(self) -> float | None:
        """How long it will take at the present rate; None where nobody can know."""
        if self.episodes is None or self.episodes_per_second <= 0:
            return None
        return max(0, self.episodes - self.done) / self.episodes_per_second

    def _show(self, last: bool) -> None:
        display = self._display
        if display is None:
            return
        now = time.monotonic()
        self.seconds = now - self._started
        elapsed = now - self._shown
        if last and self.seconds > 0:
            self.episodes_per_second = self.done / self.seconds
            self.steps_per_second = self.steps / self.seconds
        elif elapsed > 0:
            done, steps = self._shown_counts
            share = min(1.0, max(elapsed / SMOOTHING_SECONDS, elapsed / max(self.seconds, elapsed)))
            self.episodes_per_second += share * ((self.done - done) / elapsed - self.episodes_per_second)
            self.steps_per_second += share * ((self.steps - steps) / elapsed - self.steps_per_second)
        self._shown, self._shown_counts = now, (self.done, self.steps)
        self._due = now + display.interval
        self._draw(display, last)

    def _draw(self, display: _Display, last: bool) -> None:
        try:
            display.show(self, last)
        except (OSError, ValueError):  # standard error is closed; the episodes matter more
            self._display = None


def _display(stream: TextIO | None) -> _Display | None:
    """How to show it on a stream; None where that is closed, or there is none (a program without a console)."""
    try:
        if stream is None:
            return None
        if not stream.isatty():
            return _Lines(stream)
    except ValueError:
        return None
    try:
        return _RichBar(stream)
    except ImportError:
        return _PlainBar(stream)


class _Lines:
    """A line of text every few seconds, for logs and pipes."""

    interval = LINE_SECONDS

    def __init__(self, stream: TextIO):
        self._stream = stream

    def show(self, progress: Progress, last: bool) -> None:
        self._stream.write(f"{progress.environment}: {_numbers(progress, last)}\n")
        self._stream.flush()


class _PlainBar:
    """A bar that redraws its own line; needs nothing but a terminal."""

    interval = REDRAW_SECONDS

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._width = 0

    def show(self, progress: Progress, last: bool) -> None:
        bar = ""
        if progress.episodes:
            filled = min(BAR_CELLS, BAR_CELLS * progress.done // progress.episodes)
            bar = f"[{'#' * filled}{'.' * (BAR_CELLS - filled)}] "
        text = f"{progress.environment} {bar}{_numbers(progress, last)}"
        self._stream.write("\r" + text.ljust(self._width) + ("\n" if last else ""))
        self._stream.flush()
        self._width = len(text)


class _RichBar:
    """A bar by rich, redrawn by us: rich's own would take a thread."""

    interval = REDRAW_SECONDS

    def __init__(self, stream: TextIO):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(BAR_CELLS),
            TextColumn("{task.fields[numbers]}"),
            console=Console(file=stream),
            auto_refresh=False,
            transient=False,
        )
        self._task = self._bar.add_task("", numbers="", total=None)
        self._begun = False

    def show(self, progress: Progress, last: bool) -> None:
        if not self._begun:
            self._begun = True
            self._bar.start()
        self._bar.update(
            self._task,
            description=progress.environment,
            total=progress.episodes if progress.episodes or not last else progress.done,
            completed=progress.done,
            numbers=_numbers(progress, last),
        )
        self._bar.refresh()
        if last:
            self._bar.stop()


def _numbers(progress: Progress, last: bool) -> str:
    total = "" if progress.episodes is None else f"/{progress.episodes:,}"
    parts = [f"{progress.done:,}{total} episodes"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if not last:
        parts.append(f"{progress.live:,} live")
    parts.append(f"{progress.episodes_per_second:,.0f} episodes/s")
    parts.append(f"{progress.steps_per_second:,.0f} steps/s")
    remaining = progress.remaining_seconds
    if last:
        parts.append(f"{_duration(progress.seconds)}")
    elif remaining is not None:
        parts.append(f"{_duration(remaining)} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"
