"""Files that are read again when they change, so that certificates, tokens and keys are renewed without a restart.

Kubernetes replaces a mounted Secret by turning a symbolic link, so all its files change at once; where files are
written one after another, what does not fit together is not taken up, and looked at again after the next write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

__all__ = ["LOOK_SECONDS", "Refreshed", "Watched", "look_periodically"]

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often files are looked at."""

_Value = TypeVar("_Value")
_Stamp = tuple[tuple[int, int, int] | str, ...]


class Refreshed(Protocol):
    """What is to be looked at again from time to time."""

    def refresh(self) -> object:
        """Look."""
        ...


class Watched(Generic[_Value]):
    """What files say. ``value`` is always the last that could be used.

    Raises, when made, whatever ``read`` raises.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[Path],
        read: Callable[[], _Value],
        changed: Callable[[_Value], None] | None = None,
    ) -> None:
        self._what, self._paths, self._read, self.changed = what, tuple(paths), read, changed
        self._stamp = self._look()
        self.value = read()

    def refresh(self) -> bool:
        """Read the files again if they were written since. A change that cannot be used, or that ``changed`` does not
        take, leaves the value as it is, and is logged, once. Returns whether there is a new value."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        before = self.value
        try:
            self.value = self._read()
            if self.changed is not None:
                self.changed(self.value)
        except (ValueError, OSError) as error:
            self.value = before
            _log.error(
                "%s cannot be used as it is now; the old one stays", self._what, extra={"error": str(error)}
            )
            return False
        _log.info("%s was renewed", self._what)
        return True

    def _look(self) -> _Stamp:
        return tuple(_stamp(path) for path in self._paths)


async def look_periodically(watched: Iterable[Refreshed], seconds: float = LOOK_SECONDS) -> None:
    """Refresh files that are watched, until cancelled."""
    kept = list(watched)
    while True:
        await asyncio.sleep(seconds)
        for each in kept:
            each.refresh()


def _stamp(path: Path) -> tuple[int, int, int] | str:
    try:
        status = path.stat()
    except OSError as error:
        return type(error).__name__
    return status.st_mtime_ns, status.st_size, status.st_ino
