"""One event loop in a thread of its own, for all synchronous clients of a process.

The thread starts with the first client and ends with the last. It is no daemon, so nothing is cut off in the middle; if
a program ends without closing its clients, the loop sees that the main thread is gone and stops by itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from envmesh.errors import ForkedClient, InvalidRequest, MeshUnavailable
from envmesh.event_loop import new_event_loop

__all__ = ["LoopThread"]

_Result = TypeVar("_Result")

LOOK_SECONDS = 0.25
START_SECONDS = 10.0
END_SECONDS = 10.0


class LoopThread:
    """The loop and its thread. ``enter`` and ``leave`` count who uses it."""

    _current: LoopThread | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self._users = 0
        self._pid = os.getpid()
        self._loop = new_event_loop()
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="envmesh-sync")

    @classmethod
    def enter(cls) -> LoopThread:
        """The process's loop thread, with one more user. ``leave`` it."""
        with cls._lock:
            found = cls._current
            if found is None or found._pid != os.getpid() or not found._thread.is_alive():
                found = cls._current = cls()
                found._thread.start()
                if not found._running.wait(START_SECONDS):
                    raise MeshUnavailable(f"the event loop's thread did not start within {START_SECONDS:g} s")
            found._users += 1
            return found

    def leave(self) -> None:
        """One user less; the last one ends the thread, and waits for it."""
        with LoopThread._lock:
            self._users -= 1
            if self._users or self._pid != os.getpid():
                return
            if LoopThread._current is self:
                LoopThread._current = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_SECONDS)

    def call(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine in the loop and wait for its result. An interruption here (KeyboardInterrupt) cancels it.

        Raises:
            ForkedClient: in a forked child. InvalidRequest: from inside the loop itself (a policy, say), which would
                wait for itself. MeshUnavailable: the thread is gone.
        """
        try:
            self._check()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:
            work.close()
            raise
        while True:
            try:
                return future.result(LOOK_SECONDS)
            except concurrent.futures.TimeoutError:
                if future.done():
                    return future.result()
                if not self._thread.is_alive():
                    raise MeshUnavailable("the event loop's thread has ended") from None
            except BaseException:
                future.cancel()
                raise

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ForkedClient("this client was made before a fork; call envmesh.connect_sync() in the child")
        if threading.current_thread() is self._thread:
            raise InvalidRequest(
                "a synchronous client was used inside its own event loop (by a policy, perhaps), which would wait for "
                "itself for ever; use the asynchronous client there"
            )
        if not self._thread.is_alive():
            raise MeshUnavailable("the event loop's thread has ended: the client is closed")

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        loop.call_soon(self._running.set)
        loop.call_later(LOOK_SECONDS, self._look)
        try:
            loop.run_forever()
        finally:
            try:
                _end_tasks(loop)
            finally:
                asyncio.set_event_loop(None)
                loop.close()

    def _look(self) -> None:
        """Whether there is still a program to serve."""
        if threading.main_thread().is_alive():
            self._loop.call_later(LOOK_SECONDS, self._look)
        else:
            self._loop.stop()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=END_SECONDS / 2))
    loop.run_until_complete(loop.shutdown_asyncgens())
