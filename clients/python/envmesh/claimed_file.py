"""A file that is written under a name for the time being, by one process at a time; what a crash left there is kept."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
from pathlib import Path
from typing import BinaryIO

from envmesh.errors import InvalidRequest

__all__ = ["claim"]

log = logging.getLogger("envmesh.client")

HEAD_BYTES = 4
"""A file of no more bytes holds nothing yet: its format's first word at most."""
MOST_TURNS = 10


def claim(path: Path) -> BinaryIO:
    """A file at ``path`` that holds nothing, and is its caller's until the file is closed or its process ends. What
    somebody has left there who ended before is kept beside it under the next free number, and a warning says so.

    Raises:
        InvalidRequest: somebody is writing there. OSError: it cannot be created.
    """
    for _ in range(MOST_TURNS):
        found = path.exists()
        file = path.open("ab")
        try:
            _lock(path, file, found)
            if _is_at(path, file):
                if os.fstat(file.fileno()).st_size <= HEAD_BYTES:
                    return file
                _set_aside(path)
        except BaseException:
            file.close()
            raise
        file.close()
    raise _taken(path)


def _lock(path: Path, file: BinaryIO, found: bool) -> None:
    """Lock the file; a lock ends with its process at the latest. Raises: InvalidRequest."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(path) from None
    except OSError:  # a file system without locks
        if found:  # and nobody can tell whether somebody still writes it
            raise _taken(path) from None


def _taken(path: Path) -> InvalidRequest:
    return InvalidRequest(
        f"{path} exists, and for all that is known another recording is being written there; name another file"
    )


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether the file still is where it was opened: somebody may have moved it before it was locked."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _set_aside(path: Path) -> None:
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    aside = next(name for name in numbered if not name.exists())
    path.rename(aside)
    log.warning("%s was left by a recording that did not come to its end; it is kept as %s", path, aside)
