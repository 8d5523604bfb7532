"""What went wrong, out of the groups in which the tasks of a process tell it."""

from __future__ import annotations

__all__ = ["leaf"]


def leaf(error: BaseException) -> BaseException:
    """The first error inside groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
