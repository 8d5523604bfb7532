"""What a worker process is doing, readable from outside: a little memory it shares with its host.

One float64 a seat: the moment (``time.monotonic``, one clock for all processes of a machine) at which the environment's
code was called for that seat's command; where none runs, that of the last one with a minus sign, or 0. One before them:
the seat whose code was called last. Behind them stands what the host writes and the worker reads, its ``Breath``, and
last the worker's process id. A store of eight aligned bytes is whole or not at all, so neither side needs a lock, and a
dead worker's record can still be read.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile

from envmesh_host.isolation.breath import Breath

__all__ = ["RunningRecord"]


class RunningRecord:
    """One worker's record. ``since[handle]`` is the entry of a seat, from 1, as ``breath.held[handle]`` is."""

    __slots__ = ("_all", "_memory", "breath", "since")

    def __init__(self, file: int, seats: int):
        self._memory = mmap.mmap(file, _size(seats))
        self._all = memoryview(self._memory).cast("d")
        self.since = self._all[: seats + 1]
        self.breath = Breath(self._all[seats + 1 : seats + 2], self._all[seats + 2 : 2 * seats + 3])

    def introduce(self) -> None:
        """The worker says which process it is."""
        self._all[-1] = float(os.getpid())

    @property
    def process_id(self) -> int:
        """The worker's process, as it says; 0 before it has."""
        number = self._all[-1]
        return int(number) if 0 < number < 1 << 31 else 0

    def began(self, handle: int) -> float:
        """When the last command of a seat was begun that is over (``time.monotonic``); 0 where none is."""
        moment = self.since[handle]
        return -moment if moment < 0 else 0.0

    def running(self) -> list[int]:
        """The seats whose commands run now; where none does, the one whose command ran last.

        The memory is the worker's to write: whatever stands there, only seats that exist are named.
        """
        last, *moments = self.since.tolist()
        running = [handle for handle, since in enumerate(moments, 1) if since > 0]
        return running or ([int(last)] if 1 <= last <= len(moments) else [])

    def close(self) -> None:
        """Free the memory on this side."""
        for view in (self.since, self.breath.until, self.breath.held, self._all):
            view.release()
        self._memory.close()


def create(seats: int) -> tuple[int, RunningRecord]:
    """A new record, and the file descriptor to give to the worker and then close."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("envmesh-running", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    os.ftruncate(file, _size(seats))
    record = RunningRecord(file, seats)
    record.breath.until[0] = math.inf  # until the host has looked at its clock
    return file, record


def _size(seats: int) -> int:
    return 8 * (2 * (seats + 1) + 2)
