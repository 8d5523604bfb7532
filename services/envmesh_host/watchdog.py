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

__all__ = ["StepOverrun", "Watchdog"]

log = logging.getLogger("envmesh.host")

EXIT_STUCK = 75
"""Exit status of a host whose loop could not be freed (EX_TEMPFAIL)."""


class StepOverrun(BaseException):
    """Raised in the event loop's thread; not an Exception, so that authors' handlers let it pass."""


class Watchdog:
    """Watches ``watch[0]``: when the running inline command began (``time.perf_counter``), 0 where none runs."""

    def __init__(self, watch: list[float], limit: Callable[[], float], grace: float = 10.0):
        self._watch = watch
        self._limit = limit
        self._grace = grace
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
        raised_for = 0.0
        while not self._stopped.wait(0.1):
            began = self._watch[0]
            if not began:
                continue
            running, limit = time.perf_counter() - began, self._limit()
            if running > limit and raised_for != began:
                raised_for = began
                log.error("an inline command runs for %.1f s (limit %.1f s): interrupting it", running, limit)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._loop_thread), ctypes.py_object(StepOverrun)
                )
            elif running > limit + self._grace:
                log.critical("an inline command cannot be interrupted: ending this host")
                logging.shutdown()
                os._exit(EXIT_STUCK)
