"""Why a worker process ended, in words that say whose doing it was (pure)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from envmesh.errors import Refusal
from envmesh_host.isolation.job import during
from envmesh_host.isolation.runner import Job

__all__ = ["Death", "blame_for"]

FROM_OUTSIDE = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU}
)
"""Signals that code rarely sends itself: an operator, the kernel out of memory, or a container's end."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended. ``status`` is its exit code, or minus the signal's number; ``broken`` says what it did to
    its connection, where that is why it was ended; ``last_words`` is the end of what it printed; ``out_of_memory`` says
    that the kernel has just killed for want of memory."""

    key: str
    status: int
    last_words: str = ""
    broken: str | None = None
    out_of_memory: bool = False

    @property
    def from_outside(self) -> bool:
        """Whether it was killed by no doing of the environment, as far as can be seen."""
        return self.broken is None and not self.starved and -self.status in FROM_OUTSIDE

    @property
    def starved(self) -> bool:
        """Whether it was killed for want of memory, which is the doing of what ran in it."""
        return self.out_of_memory and self.status == -signal.SIGKILL

    @property
    def what(self) -> str:
        """``died by SIGSEGV``."""
        if self.broken is not None:
            return self.broken
        if self.status >= 0:
            return f"ended itself with exit code {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:
            name = f"signal {-self.status}"
        if self.starved:
            return "was killed for want of memory"
        if self.from_outside:
            return f"was killed by {name} from outside"
        return f"died by {name}"

    def refusal(self, during: str) -> Refusal:
        """For the episode whose code was running: its own fault, unless the worker was killed from outside."""
        reason = "WORKER_LOST" if self.from_outside else "WORKER_CRASHED"
        return self._refusal(f"the worker of {self.key} {self.what} during {during}", reason)

    def refusal_of_suspect(self, during: str, others: int) -> Refusal:
        """For an episode whose code was running beside that of others, so that nobody knows whose fault it was."""
        return self._refusal(
            f"the worker of {self.key} {self.what} during {during}, while code of {others} other episodes ran too",
            "WORKER_SUSPECTED",
        )

    def refusal_of_neighbour(self, during: str | None) -> Refusal:
        """For an episode whose code was not running; ``during`` says what another's was doing."""
        whose = "while no environment's code ran" if during is None else f"during another episode's {during}"
        return self._refusal(f"the worker of {self.key} {self.what} {whose}", "WORKER_LOST")

    def _refusal(self, message: str, reason: str) -> Refusal:
        return Refusal(message, reason=reason, detail=self.last_words)


def blame_for(death: Death, running: Sequence[Job]) -> tuple[Callable[[Job], Refusal], Refusal]:
    """What to tell the episodes whose code was running when a worker died, and what to tell the others."""
    whose = during(running[0].kind, running[0].index) if len(running) == 1 else None
    others = death.refusal_of_neighbour(whose)
    if len(running) > 1:
        beside = len(running) - 1
        return lambda job: death.refusal_of_suspect(during(job.kind, job.index), beside), others
    return lambda job: death.refusal(during(job.kind, job.index)), others
