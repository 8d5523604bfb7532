"""How many files a process may have open: sockets are files, and a mesh has many."""

from __future__ import annotations

import logging
import resource

__all__ = ["allow_open_files"]

MOST = 1 << 20
"""More than any process of a mesh needs, and few enough for programs that walk through all numbers of files."""

_log = logging.getLogger(__name__)


def allow_open_files() -> None:
    """Raise the soft limit of this process, and of those it starts, to the hard one. The usual soft limit, 1,024, is
    soon reached: a broker has a connection to every host and trainer, a host has some files a worker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:  # macOS has a bound of its own below an unlimited hard limit
        _log.debug("the limit of open files stays at %d: %s", soft, error)
