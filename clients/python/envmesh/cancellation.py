"""Whose a cancellation is."""

from __future__ import annotations

import asyncio

__all__ = ["was_cancelled"]


def was_cancelled(error: BaseException) -> bool:
    """Whether the error is there because somebody cancelled the running task; user code that raises ``CancelledError``
    by itself has failed."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
