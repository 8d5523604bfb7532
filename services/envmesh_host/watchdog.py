"""Ends synchronous inline commands that run over their limit.

The event loop cannot do that itself: it is the one that is stuck. A thread looks at what the reader noted before it
called the author's code, raises ``StepOverrun`` in the loop's thread, and when even that does not help (the code is
inside a C function, say) ends the process after a grace: its episodes are rebuilt elsewhere.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable

from envmesh_host.overrun import StepOverrun

__all__ = ["Watchdog"]

log = logging.getLogger("envmesh.host")

EXIT_STUCK = 75
"""Exit status of a host whose loop could not be freed (EX_TEMPFAIL)."""

GRACE_SECONDS = 10.0
"""Between the interruption of a command and the end of its host."""

LOOK_SECONDS = 0.1
FROZEN_SECONDS = 1.0
"""A pause of the watchdog's own that long is nobody's running time: the process was stopped, or the machine was."""


class Watchdog:
    """Watches the code of environments in the loop's thread.

    ``running()`` says since when the reset or step that runs now does so, and how long it may; 0 where none runs.
    ``last_words`` hears why the process is ended.
    """

    def __init__(
        self,
        running: Callable[[], tuple[float, float]],
        grace: float = GRACE_SECONDS,
        last_words: Callable[[str], None] = lambda why: None,
    ):
        self._running = running
        self._grace = grace
        self._last_words = last_words
        self._stopped = threading.Event()
        self._loop_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._run, name="envmesh-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch the thread that made this object."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        raised_for = frozen_until = 0.0
        looked = time.perf_counter()
        while not self._stopped.wait(LOOK_SECONDS):
            before, looked = looked, time.perf_counter()
            if looked - before > FROZEN_SECONDS:
                frozen_until = looked
            began, limit = self._running()
            if not began:
                continue
            running = looked - max(began, frozen_until)
            if running > limit and raised_for != began:
                raised_for = began
                log.error("an inline command runs for %.1f s (limit %.1f s): interrupting it", running, limit)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._loop_thread), ctypes.py_object(StepOverrun)
                )
            elif running > limit + self._grace:
                why = f"an environment's code runs for {running:.1f} s (limit {limit:.1f} s) and cannot be interrupted"
                log.critical("%s: ending this host", why)
                self._last_words(why)
                logging.shutdown()
                os._exit(EXIT_STUCK)
