"""The event loop: uvloop where it is installed, asyncio's own otherwise. The one importer of uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["implementation", "new_event_loop", "run"]

_Result = TypeVar("_Result")


def _choose() -> tuple[str, Callable[[], asyncio.AbstractEventLoop]]:
    try:
        import uvloop
    except ImportError:
        return "asyncio", asyncio.new_event_loop
    return "uvloop", uvloop.new_event_loop


implementation, _factory = _choose()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop, not yet set as anybody's current one."""
    return _factory()


def run(main: Coroutine[Any, Any, _Result], *, debug: bool | None = None) -> _Result:
    """Run ``main`` in a new event loop until it is done, as ``asyncio.run`` does.

    Raises:
        RuntimeError: another event loop is running in this thread.
    """
    with asyncio.Runner(loop_factory=new_event_loop, debug=debug) as runner:
        return runner.run(main)
