"""The life of a process: one task group, every task named, and a shutdown in two stages.

The first SIGTERM or SIGINT asks politely: the process drains and ends when it is done. A second one, or the end of the
grace period, ends it now: everything is cancelled, and a second later the process is gone whatever it is doing. A
terminal that goes (SIGHUP) asks politely too, unless that is ignored, as nohup has it.

Source: the two stages are those of grpclib's ``graceful_exit``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from envmesh_service.open_files import allow_open_files

__all__ = ["Process", "Shutdown", "run_process"]

_log = logging.getLogger(__name__)

_LAST_WORDS = 1.0
"""Seconds between the cancellation of everything and the end, for whoever does not heed it."""

_EXIT_FORCED = 70
"""Exit status of a process that had to be ended while it was still working (EX_SOFTWARE)."""


class Shutdown:
    """Whether and why this process is to end. To be asked from the loop's thread only.

    ``last_words`` is called before a process that does not heed the second stage is ended with ``forced_status``: what
    it owns beyond itself is to be removed by then. It waits for nothing.
    """

    def __init__(
        self, *, last_words: Callable[[], None] = lambda: None, forced_status: int = _EXIT_FORCED
    ) -> None:
        self._requested = asyncio.Event()
        self._last_words, self._forced_status = last_words, forced_status
        self.reason = ""
        self.forced = False
        """Whether the second stage was needed."""

    @property
    def requested(self) -> bool:
        """Whether the first stage has begun."""
        return self._requested.is_set()

    def request(self, reason: str) -> None:
        """Begin the first stage. Asking again changes nothing."""
        if not self.requested:
            _log.info("shutting down", extra={"reason": reason})
            self.reason = reason
            self._requested.set()

    async def wait(self) -> None:
        """Wait for the first stage."""
        await self._requested.wait()

    def leave(self) -> None:
        """End the process, whatever it is doing."""
        try:
            self._last_words()
        finally:
            os._exit(self._forced_status)


class Process:
    """What the body of a process is given: where its tasks live, and its shutdown."""

    def __init__(self, tasks: asyncio.TaskGroup, shutdown: Shutdown) -> None:
        self.shutdown = shutdown
        self._tasks = tasks
        self._background: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Start a task that lives as long as the body at most; its failure ends the process."""
        task = self._tasks.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def cancel_background(self) -> None:
        """Cancel every task that was spawned and is not done."""
        for task in self._background:
            task.cancel()


async def run_process(
    body: Callable[[Process], Coroutine[Any, Any, None]],
    *,
    grace: float | None = 30.0,
    signals: bool = True,
    shutdown: Shutdown | None = None,
) -> Shutdown:
    """Run ``body``; when it returns, the tasks it spawned are cancelled and awaited.

    ``body`` watches ``shutdown`` and returns when it has drained. ``grace`` seconds after the first stage (None: no
    end), or at a second signal, it is cancelled. With ``signals`` the process is the body's own: signals are handled,
    and as many files may be open as the machine allows; else it stays as it is. Give a ``shutdown`` to be able to ask
    from outside. Returns how it went.

    Raises:
        BaseExceptionGroup: a task failed; the others were cancelled and awaited first.
    """
    shutdown = shutdown or Shutdown()
    if signals:
        allow_open_files()
    async with asyncio.TaskGroup() as tasks:
        process = Process(tasks, shutdown)
        main = tasks.create_task(body(process), name="main")
        process.spawn(_enforce(shutdown, main, grace), name="shutdown-grace")
        restore = _watch_signals(shutdown, main) if signals else None
        try:
            await asyncio.wait([main])
        finally:
            process.cancel_background()
            if restore is not None:
                restore()
    return shutdown


async def _enforce(shutdown: Shutdown, main: asyncio.Task[None], grace: float | None) -> None:
    await shutdown.wait()
    if grace is not None:
        await asyncio.sleep(grace)
        _force(shutdown, main, f"not drained within {grace:g} s")


def _force(shutdown: Shutdown, main: asyncio.Task[None], why: str) -> None:
    _log.warning("ending now", extra={"reason": why})
    shutdown.forced = True
    main.cancel(why)


def _watch_signals(shutdown: Shutdown, main: asyncio.Task[None]) -> Callable[[], None]:
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def receive(number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            _turn_from(terminals)
        if not shutdown.requested:
            shutdown.request(number.name)
        elif number is signal.SIGHUP:
            pass  # no impatience: the kernel says that the terminal went, and a shell says it again
        elif not shutdown.forced:
            _force(shutdown, main, f"a second signal ({number.name})")
            loop.call_later(_LAST_WORDS, shutdown.leave)
        else:
            shutdown.leave()

    for number in numbers:
        loop.add_signal_handler(number, receive, number)

    def restore() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    return restore


def _turn_from(terminals: list[int]) -> None:
    """Write into the void what would go to a terminal that is gone: every line to it would be an error."""
    for stream in terminals:
        if not os.isatty(stream):
            void = os.open(os.devnull, os.O_WRONLY)
            os.dup2(void, stream)
            os.close(void)
