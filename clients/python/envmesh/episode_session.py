"""An episode as those see it who rebuild it: what it is, where it is, and what is out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from envmesh.errors import EpisodeAborted
from envmesh.frame_bounds import LARGE_REPLY_BYTES
from envmesh.outcome import Resume
from envmesh.rebuild import Loss, Suspicion
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.episode import Beginning
    from envmesh.leases import LeasePool
    from envmesh.outcome import EnvironmentSpec
    from envmesh.rebuilding import Rebuild
    from envmesh.slot import Slot

__all__ = ["ELSEWHERE", "LOSS_OF_REASON", "WORKER_DEATHS", "EpisodeSession", "answers"]

ELSEWHERE = frozenset({"LEASE_INVALID", "NO_CAPACITY", "SLOT_TAKEN", "DRAINING", "UNREACHABLE"})
"""Reasons for which a Reset or Resume is tried on another slot."""

LOSS_OF_REASON = {
    "WORKER_LOST": Loss.WORKER_LOST,
    "WORKER_CRASHED": Loss.WORKER_CRASHED,
    "WORKER_SUSPECTED": Loss.WORKER_CRASHED,
    "PREEMPTED": Loss.PREEMPTED,
    "EPISODE_UNKNOWN": Loss.COPY_GONE,
}
"""Failures of a command after which an episode can go on as another copy."""

WORKER_DEATHS = frozenset({"WORKER_LOST", "WORKER_CRASHED", "WORKER_SUSPECTED", "PREEMPTED"})

_COMMAND_OF_ANSWER: dict[int, int] = {
    pb.EVENT_KIND_RESUMED: pb.COMMAND_KIND_RESUME,
    pb.EVENT_KIND_REWARD: pb.COMMAND_KIND_REWARD,
    pb.EVENT_KIND_CHECKPOINT: pb.COMMAND_KIND_CHECKPOINT,
    pb.EVENT_KIND_DETACHED: pb.COMMAND_KIND_DETACH,
}


def answers(kind: int, index: int, out: tuple[int, int, bytes] | None) -> bool:
    """Whether an event that is no outcome answers the command that is out. One to an earlier command, for which its
    caller had no patience any more, may come while a later one is out."""
    if out is None:
        return False
    return index == out[0] if kind == pb.EVENT_KIND_FAILURE else _COMMAND_OF_ANSWER.get(kind) == out[1]


class EpisodeSession(ABC):
    """An episode, as far as its rebuilding is concerned: a session of a connection."""

    if not TYPE_CHECKING:
        __slots__ = ()

    spec: EnvironmentSpec
    episode_id: bytes
    epoch: int
    index: int
    expected: int
    beginning: Beginning
    suspicion: Suspicion | None
    rebuild: Rebuild | None

    @property
    @abstractmethod
    def journaled(self) -> bool:
        """Whether a journal leads to ``index``."""

    @property
    @abstractmethod
    def place(self) -> tuple[Slot, int]:
        """Its slot, and its handle there."""

    @property
    @abstractmethod
    def pool(self) -> LeasePool:
        """Where its slots go when it is over."""

    @property
    @abstractmethod
    def last_digest(self) -> int | None:
        """The digest of the last outcome, where it is known."""

    @property
    def traceparent(self) -> str:
        """What others need to add to the episode's trace; empty where it is not traced."""
        return ""

    def take_stock(self) -> None:  # noqa: B027 - most have nothing to do
        """Bring ``index`` up to date, where the fast path leaves that for later."""

    def acknowledge(self, index: int, payload: bytes, info: bytes) -> None:
        """An outcome has come, and no command follows at once that would say so: its host need not keep a large one."""
        if len(payload) + len(info) > LARGE_REPLY_BYTES:
            slot, handle = self.place
            slot.connection.send(handle, index, pb.COMMAND_KIND_ACKNOWLEDGE, b"")

    def abandon_rebuild(self) -> None:
        """The episode leaves its place: where it is being rebuilt, it is not wanted any more."""
        if self.rebuild is not None:
            self.rebuild.abandon()

    @abstractmethod
    def out(self) -> tuple[int, int, bytes] | None:
        """The command that is out: index, kind and payload."""

    @abstractmethod
    def journal_bytes(self) -> bytes:
        """The serialized Journal; empty where there is none."""

    @abstractmethod
    def stand_by(self, slot: Slot, handle: int) -> None:
        """From now on, commands go to a slot that stands in."""

    @abstractmethod
    def arrive(self, slot: Slot, handle: int, resume: Resume) -> None:
        """From now on, commands go there."""

    @abstractmethod
    def enlist(self) -> None:
        """Take the events of the handle itself."""

    @abstractmethod
    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """An outcome came."""

    @abstractmethod
    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """Anything else came."""

    @abstractmethod
    def fell(self, error: EpisodeAborted) -> None:
        """The episode is over without an outcome."""
