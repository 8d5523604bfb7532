"""One episode of a vector, for what concerns it alone: the loss of its copy, and its rebuilding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envmesh.batch_codec import integers
from envmesh.episode import Beginning
from envmesh.episode_session import EpisodeSession
from envmesh.errors import EpisodeAborted
from envmesh.leases import LeasePool
from envmesh.outcome import EnvironmentSpec, Resume
from envmesh.rebuild import Suspicion
from envmesh.rebuilding import Rebuild
from envmesh.slot import Slot
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.vector_episodes import VectorEpisodes

__all__ = ["Member"]

STEP, RESET = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET
FAILURE, CHECKPOINT = pb.EVENT_KIND_FAILURE, pb.EVENT_KIND_CHECKPOINT


class Member(EpisodeSession):
    """Episode ``number``. What it is and where it stands is in the vector's arrays."""

    __slots__ = ("number", "rebuild", "suspicion", "vector")

    def __init__(self, vector: VectorEpisodes, number: int):
        self.vector = vector
        self.number = number
        self.suspicion: Suspicion | None = None
        self.rebuild: Rebuild | None = None

    # ---- what it is

    @property
    def spec(self) -> EnvironmentSpec:  # type: ignore[override]
        """Its environment."""
        return self.vector.spec

    @property
    def pool(self) -> LeasePool:
        """Where its slots go."""
        return self.vector.pool

    @property
    def episode_id(self) -> bytes:  # type: ignore[override]
        """Its id."""
        return self.vector.identities[self.number]

    @property
    def epoch(self) -> int:
        """Its epoch."""
        return int(self.vector.epochs[self.number])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.vector.epochs[self.number] = epoch

    @property
    def index(self) -> int:  # type: ignore[override]
        """The last step whose outcome is held."""
        return self.vector.index_of(self.number)

    @property
    def expected(self) -> int:  # type: ignore[override]
        """The index whose outcome is awaited."""
        return self.vector.awaited(self.number)

    @property
    def beginning(self) -> Beginning:  # type: ignore[override]
        """How it began."""
        return self.vector.beginnings[self.number]

    # ---- what the connection tells

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """An outcome that came alone."""
        self.vector.on_outcomes(
            integers([self.number]), [index], [payload], [reward], [flags], [digest], [info]
        )

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """A failure, or a checkpoint."""
        if kind == FAILURE:
            self.vector.on_failure(self.number, index, payload)
        elif kind == CHECKPOINT:
            self.vector.on_checkpoint(self.number, payload)

    def fell(self, error: EpisodeAborted) -> None:
        """The episode is over without an outcome."""
        self.vector.fell(self.number, error)

    # ---- its rebuilding

    @property
    def journaled(self) -> bool:
        """Whether a journal leads to where it is."""
        return self.vector.journaled(self.number)

    @property
    def place(self) -> tuple[Slot, int]:
        """Its slot, and its handle there."""
        return self.vector.place_of(self.number)

    @property
    def last_digest(self) -> int | None:
        """Not known: the vector keeps no outcomes. Its host compares."""
        return None

    def out(self) -> tuple[int, int, bytes] | None:
        """The command that is out."""
        return self.vector.out(self.number)

    def journal_bytes(self) -> bytes:
        """The serialized Journal."""
        return self.vector.journals.journal(self.number)[0].packed() if self.journaled else b""

    def stand_by(self, slot: Slot, handle: int) -> None:
        """There is no copy for now."""
        self.vector.stand_by(self.number, slot, handle)

    def arrive(self, slot: Slot, handle: int, resume: Resume) -> None:
        """There is one again."""
        self.vector.arrive(self.number, slot, handle)

    def enlist(self) -> None:
        """Take the events of the handle."""
        self.vector.enlist(self.number)
