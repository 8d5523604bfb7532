"""A host's live copy of an episode, and the judgement of each command that comes for it (pure).

The copy is a cache: its client can rebuild it elsewhere. What makes the trajectory exactly-once is here: the last reply
is kept, and the same command again gets the same reply. The table is in protocol.md, "The same command again".
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

from envmesh.errors import Refusal
from envmesh.frame_bounds import LARGE_REPLY_BYTES
from envmesh_host.kept import Stored
from envmesh_host.served import ENDED

__all__ = ["CLOSED_TO_STEPS", "EpisodeCopy", "Verdict", "judge_epoch", "judge_step"]

CLOSED_TO_STEPS = -1
"""``next_index`` of a copy whose next command must be looked at with care: busy, ended, failed or fenced."""


class Verdict(enum.Enum):
    """What to do with a command."""

    ACT = "act"
    WAIT = "wait"
    CACHED = "cached"


class EpisodeCopy:
    """One live copy.

    ``next_index`` is the index that may be acted on at once, or ``CLOSED_TO_STEPS``; the stream's reader looks at
    nothing else on its fast path. There it notes a reply as a position in the ``record`` of a whole frame; ``index``,
    ``action`` and ``row`` say the same one by one: the last reply's index, the action's bytes that led to it, and the
    reply, or the refusal that ended the episode. ``running`` is the command under way, None where there is none.
    ``grade`` is the reply to Reward and the index it was given at, ``return_`` the sum of the rewards so far, NaN where
    that is not known (the copy was rebuilt from a checkpoint that does not say). ``saved_index`` and ``saved_at`` say
    when it was saved last, ``stored`` which checkpoints of it are in the store, the oldest first, ``trace`` its trace,
    where it has one.
    """

    __slots__ = (
        "_action",
        "_index",
        "_row",
        "born",
        "client_id",
        "connection",
        "environment",
        "epoch",
        "episode_id",
        "grade",
        "handle",
        "holding",
        "idle_since",
        "next_index",
        "play",
        "position",
        "record",
        "return_",
        "running",
        "saved_at",
        "saved_index",
        "seat",
        "stored",
        "tenant",
        "trace",
    )

    def __init__(
        self,
        episode_id: bytes,
        epoch: int,
        client_id: bytes,
        tenant: str,
        environment: Any,
        holding: Any,
        now: float,
    ):
        self.episode_id = episode_id
        self.epoch = epoch
        self.client_id = client_id
        self.tenant = tenant
        self.environment = environment
        self.holding = holding
        self.born = now
        self.idle_since = now
        self.connection: Any = None
        self.handle = 0
        self.seat: Any = None
        self.play: Any = None
        self.next_index = CLOSED_TO_STEPS
        self.record: Record | None = None
        self.position = 0
        self._index = -1
        self._action = b""
        self._row: Any = None
        self.running: Any = None
        self.grade: tuple[int, Any] | None = None
        self.return_ = 0.0
        self.saved_index = 0
        self.saved_at = now
        self.stored: tuple[Stored, ...] = ()
        self.trace: Any = None

    @property
    def index(self) -> int:
        """The index of the last reply, -1 before the first."""
        return self._index if self.next_index == CLOSED_TO_STEPS else self.next_index - 1

    @property
    def action(self) -> bytes:
        """The bytes of the command that led to the last reply."""
        self.compact()
        return self._action

    @property
    def row(self) -> Any:
        """The last reply, or the refusal that ended the episode; None before the first."""
        self.compact()
        return self._row

    @row.setter
    def row(self, row: Any) -> None:
        self.compact()
        self._row = row

    @property
    def failed(self) -> bool:
        """Whether the episode ended without an outcome."""
        return isinstance(self.row, Refusal)

    @property
    def ended(self) -> bool:
        """Whether no further step can follow."""
        return self.failed or (self.row is not None and bool(self.row[2] & ENDED))

    def compact(self) -> None:
        """Take the last reply out of its frame's record, which lets go of the rest of the frame."""
        record = self.record
        if record is not None:
            self.record = None
            at = self.position
            self._action = record[0][at]
            self._row = tuple(column[at] for column in record[1])

    def close_to_steps(self) -> None:
        """The next command has to be looked at with care."""
        self._index = self.index
        self.next_index = CLOSED_TO_STEPS

    def open_to_steps(self) -> None:
        """The next step may be acted on at once."""
        self.next_index = self._index + 1

    def settle(self, index: int, action: bytes, row: Any) -> None:
        """Take note of a command's reply, which acknowledges the one before."""
        self.record = None
        self._index = index
        self._action = action
        self._row = row
        self.running = None
        goes_on = self.play is not None and not isinstance(row, Refusal) and not row[2] & ENDED
        self.next_index = index + 1 if goes_on else CLOSED_TO_STEPS


Record = tuple[Sequence[bytes], tuple[Sequence[Any], ...]]
"""The actions of a frame, and the columns of their outcomes."""


class RunningStep:
    """The command that is under way, and who waits for it: a reset or step, or with a ``name`` something else, whose
    ``request`` may be sent again meanwhile. ``begun`` is when, on the performance counter; 0 where nobody measures.
    ``following`` is the step or grading that waits behind it, ``held`` who waits for an outcome that is held back until
    this is done, ``base`` the step that a resumption begins at."""

    __slots__ = ("action", "base", "begun", "following", "held", "index", "job", "name", "request", "waiters")

    def __init__(self, index: int, action: bytes, job: Any, name: str = "", request: bytes = b""):
        self.index = index
        self.action = action
        self.job = job
        self.name = name
        self.request = request
        self.begun = 0.0
        self.base = 0
        self.following: tuple[int, int, bytes, list[Any]] | None = None
        self.held: list[Any] | None = None
        self.waiters: list[Any] = []

    def dismissed(self) -> list[Any]:
        """All who wait for it or behind it; nobody does afterwards."""
        waiters, self.waiters = self.waiters, []
        if self.following is not None:
            waiters = [*waiters, *self.following[3]]
            self.following = None
        return waiters

    def __str__(self) -> str:
        return self.name or f"step {self.index}"


def judge_step(copy: EpisodeCopy, index: int, action: bytes) -> Verdict:
    """What to do with a reset (index 0) or step.

    Raises:
        Refusal: STEP_CONFLICT (ABORTED), STEP_INDEX (OUT_OF_RANGE), EPISODE_ENDED (FAILED_PRECONDITION), or the
            failure that ended the episode.
    """
    running = copy.running
    if running is not None and running.index == index and not running.name:
        if running.action == action:
            return Verdict.WAIT
        raise conflict(index)
    if index == copy.index and copy.row is not None:
        if copy.action == action:
            if isinstance(copy.row, Dropped):
                raise Refusal(f"the reply to step {index} was acknowledged and dropped", reason="STEP_INDEX")
            return Verdict.CACHED
        raise conflict(index)
    if running is not None:
        raise Refusal(f"{running} is running; step {index} is out of turn", reason="STEP_INDEX")
    if index == copy.index + 1:
        if copy.failed:
            raise copy.row
        if copy.ended:
            raise Refusal(f"the episode ended at step {copy.index}; reset a new one", reason="EPISODE_ENDED")
        return Verdict.ACT
    raise Refusal(f"step {index} is out of turn: the last one was {copy.index}", reason="STEP_INDEX")


def conflict(index: int) -> Refusal:
    """The refusal of another action at a used index."""
    return Refusal(f"another action was sent at step {index} before", reason="STEP_CONFLICT")


class Dropped(tuple):  # type: ignore[type-arg]
    """What is kept of a large reply that its client has acknowledged: all but payload and info."""

    __slots__ = ()


def acknowledge(copy: EpisodeCopy) -> None:
    """The client holds the last reply: a large one is dropped, its flags are kept. One of an episode that can be saved
    stays, for a checkpoint carries it."""
    if copy.environment.info.checkpoints:
        return
    row = copy.row
    if isinstance(row, tuple) and len(row[0]) + len(row[4]) > LARGE_REPLY_BYTES:
        copy.row = Dropped((b"", row[1], row[2], row[3], b""))


def judge_epoch(copy: EpisodeCopy, epoch: int, client_id: bytes) -> None:
    """Refuse a command of an older owner or rebuild.

    Raises:
        Refusal: EPOCH_STALE (ABORTED).
    """
    if epoch < copy.epoch or (epoch == copy.epoch and client_id != copy.client_id):
        raise Refusal(
            f"the episode has a newer owner or rebuild (epoch {copy.epoch >> 32}.{copy.epoch & 0xFFFFFFFF}, "
            f"this command has {epoch >> 32}.{epoch & 0xFFFFFFFF})",
            reason="EPOCH_STALE",
        )
