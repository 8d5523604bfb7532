"""Whether a command that waits behind others may begin: what a host tells those who carry commands out.

A host that was paused, or whose client was silent for too long, begins nothing for that client's episodes until it has
confirmed them. What was handed on before, to a worker process or a thread, must keep to that by itself: ``until`` is
the moment (``time.monotonic``) up to which the host's last look at its clock reaches, for a pause stops everything of
it at once; and ``held`` marks the seats of episodes that are in doubt.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["LOOK_SECONDS", "Breath", "Numbers"]

LOOK_SECONDS = 0.01
"""Who may not begin looks again after this."""


class Numbers(Protocol):
    """A memoryview of float64, as far as it is used here."""

    def __getitem__(self, index: int, /) -> float: ...

    def __setitem__(self, index: int, value: float, /) -> None: ...

    def release(self) -> None:
        """Let go of the memory."""
        ...


class Breath:
    """One host's, or one worker's, in memory that both see. ``held`` has one entry a seat; 0.0 is not in doubt."""

    __slots__ = ("held", "until")

    def __init__(self, until: Numbers, held: Numbers):
        self.until = until
        self.held = held
