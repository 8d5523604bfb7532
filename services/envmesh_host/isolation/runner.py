"""What every isolation offers the host: play one episode's commands somewhere, and say what they led to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.served import Row

__all__ = ["Job", "Runner"]


class Job:
    """One command of one episode, on its way through a runner.

    ``kind`` is a ``CommandKind``: RESET (payload: ResetRequest), STEP (the action's Value), REWARD, CHECKPOINT, RESUME
    (ResumeRequest) or CLOSE. ``seat`` is where the episode lives in its runner: RESET and RESUME are given the seat
    that ``Runner.seat()`` made, and every later command of the episode bears the same. An episode has at most one
    job at a time, save CLOSE, which may come while another runs: that one then ends with CANCELLED.

    ``limit_seconds`` bounds the environment's running time; of a RESUME, that of each of its steps.

    ``done`` is called exactly once, in the event loop, with a ``Row`` or a ``Refusal``; never from within ``submit``.
    ``running_seconds`` is set before: the environment's own time.
    """

    __slots__ = ("done", "index", "kind", "limit_seconds", "payload", "running_seconds", "seat")

    def __init__(
        self,
        kind: int,
        seat: Any,
        index: int,
        payload: bytes,
        limit_seconds: float,
        done: Callable[[Job, Row | Refusal], None],
    ):
        self.kind = kind
        self.seat = seat
        self.index = index
        self.payload = payload
        self.limit_seconds = limit_seconds
        self.done = done
        self.running_seconds = 0.0


class Runner(Protocol):
    """Plays the episodes of one environment in one isolation."""

    async def start(self) -> pb.EnvironmentInfo:
        """Make ready, and say what is served.

        Raises:
            Refusal: the environment cannot be created, or is none.
        """
        ...

    def seat(self, *, apart: bool = False) -> Any:
        """Room for a new episode. The host bounds how many there are; a runner may still queue behind its workers.
        ``apart``: in a worker process of its own, until a step of it has succeeded or it is closed."""
        ...

    def submit(self, job: Job) -> None:
        """Begin a command. Never blocks, never raises for the environment's sake."""
        ...

    def breathe(self, until: float) -> None:
        """Commands that were submitted may begin up to this moment of ``time.monotonic`` (see ``breath.py``)."""
        ...

    def hold(self, seat: Any, held: bool) -> None:
        """Whether what was submitted for this episode is in doubt: then it does not begin, though CLOSE does."""
        ...

    @property
    def stuck(self) -> int:
        """Episodes closed long ago whose code still runs, and so still hold a slot."""
        ...

    @property
    def ends_code(self) -> bool:
        """Whether code that does not return is ended at its limit. If not, only the end of this process ends it."""
        ...

    async def stop(self, grace_seconds: float) -> None:
        """End everything within the grace; afterwards no thread, process or task of the runner is left."""
        ...


CopiesLost = Callable[[Sequence[Any], Refusal], None]
"""Called in the event loop with the seats whose copies died without a command of theirs running, and why."""
