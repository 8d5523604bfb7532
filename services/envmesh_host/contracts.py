"""What the engine asks of those around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.copy import EpisodeCopy
from envmesh_host.served import Row
from envmesh_host.slots import Claim, Holding

__all__ = ["Rights", "Sink", "Tap", "Trace", "Traces"]


class Sink(Protocol):
    """Where replies go: a connection, or one unary call."""

    client_id: bytes
    tenant: str

    def reply(self, handle: int, index: int, kind: int, result: Row | Refusal) -> None:
        """Deliver one reply."""
        ...


class Tap(Protocol):
    """Somebody who looks at an episode."""

    def note_row(self, index: int, action: bytes, result: Row | Refusal, seconds: float | None) -> None:
        """A reset or step ended. ``seconds`` is the environment's time, None where it is not known."""
        ...


class Trace(Protocol):
    """The trace of one copy."""

    @property
    def trace_id(self) -> str:
        """As it stands in logs."""
        ...

    def note(
        self,
        copy: EpisodeCopy,
        kind: int,
        index: int,
        begun: float,
        seconds: float | None,
        result: Row | Refusal,
    ) -> None:
        """A command is over, that began at ``begun`` (performance counter; 0: unknown)."""
        ...

    def end(self, copy: EpisodeCopy, refusal: Refusal | None) -> None:
        """The copy is gone."""
        ...


class Traces(Protocol):
    """Who keeps traces."""

    def begin(self, copy: EpisodeCopy, traceparent: str) -> None:
        """A copy begins to live here, and its client has a trace: the copy gets its ``trace`` if there is room."""
        ...


class Rights(Protocol):
    """Who may do what: reads leases, seals checkpoints, makes attach tokens."""

    def claim(self, token: bytes, client_id: bytes, known: Callable[[bytes], Holding | None]) -> Claim:
        """The claim a lease's token makes here; one that is ``known`` by its id does not expire any more.

        Raises: Refusal LEASE_INVALID.
        """
        ...

    def attach_token(self, copy: EpisodeCopy) -> bytes:
        """Proof of a right to take this copy over."""
        ...

    def check_attach_token(self, token: bytes, tenant: str, episode_id: bytes) -> None:
        """Raises: Refusal NOT_YOURS."""
        ...

    def seal(self, copy: EpisodeCopy, content: bytes) -> pb.SealedCheckpoint:
        """A checkpoint that cannot be altered unnoticed."""
        ...

    def check_seals(self, journal: pb.Journal, tenant: str) -> None:
        """Raises: Refusal NOT_YOURS when a checkpoint of the journal was altered or is another tenant's."""
        ...
