"""Coroutines that go on without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["go_on"]


def go_on(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine up to where it has to wait; from there it goes on by itself once it can. It begins at once, costs
    no turn of the event loop, and belongs to no task that could be cancelled. What it raises later is the loop's to
    log."""
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return
    if awaited is None:  # a bare yield: in the next turn
        asyncio.get_running_loop().call_soon(go_on, coroutine)
        return
    awaited._asyncio_future_blocking = False  # as a task does with the future that it is given
    awaited.add_done_callback(lambda _: go_on(coroutine))
