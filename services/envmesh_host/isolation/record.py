"""What a worker process is doing, readable from outside: a little memory it shares with its host.

One float64 a seat: the moment (``time.monotonic``, one clock for all processes of a machine) at which the environment's
code was called for that seat's command, or 0 where none runs. One before them: the seat whose code was called last. A
store of eight aligned bytes is whole or not at all, so neither side needs a lock, and a dead worker's record can still
be read.
"""

from __future__ import annotations

import mmap
import os
import tempfile

__all__ = ["RunningRecord"]


class RunningRecord:
    """One worker's record. ``since[handle]`` is the entry of a seat, from 1."""

    __slots__ = ("_memory", "since")

    def __init__(self, file: int, seats: int):
        self._memory = mmap.mmap(file, 8 * (seats + 1))
        self.since = memoryview(self._memory).cast("d")

    def running(self) -> list[int]:
        """The seats whose commands run now; where none does, the one whose command ran last.

        The memory is the worker's to write: whatever stands there, only seats that exist are named.
        """
        last, *moments = self.since.tolist()
        running = [handle for handle, since in enumerate(moments, 1) if since > 0]
        return running or ([int(last)] if 1 <= last <= len(moments) else [])

    def close(self) -> None:
        """Free the memory on this side."""
        self.since.release()
        self._memory.close()


def create(seats: int) -> tuple[int, RunningRecord]:
    """A new record, and the file descriptor to give to the worker and then close."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("envmesh-running", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    os.ftruncate(file, 8 * (seats + 1))
    return file, RunningRecord(file, seats)
