"""What the watchdog raises in the event loop's thread (pure)."""

from __future__ import annotations

__all__ = ["StepOverrun"]


class StepOverrun(BaseException):
    """An inline command ran over its limit; not an Exception, so that authors' handlers let it pass."""
