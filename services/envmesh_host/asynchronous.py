"""Which environments are played in an event loop."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["is_asynchronous"]

_METHODS = ("reset", "step", "reward", "checkpoint", "restore", "reseed", "close")
"""Those of an environment that may be coroutines, each of them."""


def is_asynchronous(instance: Any) -> bool:
    """Whether any of an environment's own methods is a coroutine."""
    return any(inspect.iscoroutinefunction(getattr(instance, name, None)) for name in _METHODS)
