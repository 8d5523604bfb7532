"""The client's side of one episode: who it is, where it stands, and how it came there (pure).

The client is the one judge of what happened. An outcome counts when it is the one that is expected, under the handle
that is bound now; the journal then holds it, and nothing else ever will.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from envmesh.env import Recovery
from envmesh.journal import Journal
from envmesh.outcome import EnvironmentSpec
from envmesh.rebuild import Suspicion
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import value_pb2

if TYPE_CHECKING:
    from envmesh.journal_file import EpisodeLog
    from envmesh.traces import EpisodeTrace

__all__ = ["FIRST_EPOCH", "NOTHING_EXPECTED", "Beginning", "EpisodeState"]

FIRST_EPOCH = 1 << 32
"""Owner 1, rebuild 0."""

NOTHING_EXPECTED = -1


class Beginning:
    """How an episode is to begin: what a Reset says, whoever serves it."""

    __slots__ = ("group", "number", "options", "options_value", "run", "seed", "split", "task")

    def __init__(
        self,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        options_value: value_pb2.Value | None = None,
        task: str = "",
        split: str = "",
        group: int | None = None,
    ):
        self.seed = seed
        self.options = options
        self.options_value = options_value
        self.task = task
        self.split = split
        self.group = group
        self.run = ""
        self.number = -1

    @property
    def packed_options(self) -> bytes:
        """The serialized Value of the options; nothing where there are none."""
        options = self.options_value
        return b"" if options is None else options.SerializeToString(deterministic=True)

    def request(self, episode_id: bytes, epoch: int, lease_number: int, traceparent: str = "") -> bytes:
        """The payload of a RESET row."""
        return pb.ResetRequest(
            episode_id=episode_id, epoch=epoch, lease_number=lease_number, seed=self.seed, options=self.options_value,
            task=self.task, split=self.split, traceparent=traceparent,
        ).SerializeToString(deterministic=True)  # fmt: skip

    def written(self, spec: EnvironmentSpec, episode_id: bytes) -> dict[str, Any]:
        """The same as JSON, for a journal on disk."""
        options = self.options_value
        return {
            "environment": spec.key, "episode_id": episode_id.hex(), "build": spec.build, "seed": self.seed,
            "task": self.task, "split": self.split, "group": self.group, "run": self.run, "number": self.number,
            "options": None if options is None else options.SerializeToString().hex(),
        }  # fmt: skip

    def entry(self, spec: EnvironmentSpec) -> pb.ResetEntry:
        """The first entry of the journal."""
        return pb.ResetEntry(
            environment=spec.key, build=spec.build, seed=self.seed, options=self.options_value, task=self.task,
            split=self.split,
        )  # fmt: skip


class EpisodeState:
    """Where an episode stands.

    ``index`` is the last step whose outcome is held, -1 before the reset's. ``expected`` is the index awaited,
    ``NOTHING_EXPECTED`` where nothing is; ``pending`` the bytes that were sent for it. ``flags`` are those of the last
    outcome. ``suspicion`` is held against the next step where that was running at a death that nobody can explain.
    """

    __slots__ = (
        "beginning",
        "episode_id",
        "epoch",
        "expected",
        "flags",
        "index",
        "journal",
        "log",
        "pending",
        "spec",
        "suspicion",
        "trace",
    )

    def __init__(self, spec: EnvironmentSpec, episode_id: bytes, beginning: Beginning):
        self.spec = spec
        self.episode_id = episode_id
        self.beginning = beginning
        self.epoch = FIRST_EPOCH
        self.index = -1
        self.expected = NOTHING_EXPECTED
        self.pending = b""
        self.flags = 0
        self.journal: Journal | None = None
        self.log: EpisodeLog | None = None
        self.suspicion: Suspicion | None = None
        self.trace: EpisodeTrace | None = None

    @property
    def traceparent(self) -> str:
        """What others need to add to the episode's trace; empty where it is not traced."""
        return "" if self.trace is None else self.trace.parent

    def reset_payload(self, lease_number: int) -> bytes:
        """The payload of its RESET row."""
        return self.beginning.request(self.episode_id, self.epoch, lease_number, self.traceparent)

    @property
    def done(self) -> bool:
        """Whether the episode is over by itself."""
        return bool(self.flags & 3)

    @property
    def keeps_journal(self) -> bool:
        """Whether the episode can be rebuilt: its class allows it, and its seed is known where it has one."""
        recovery = self.spec.recovery
        if recovery is Recovery.REPLAY:
            return self.beginning.seed is not None or not self.spec.seeded
        return recovery is Recovery.STATE

    def expect(self, index: int, payload: bytes) -> None:
        """A reset or step is being sent."""
        self.expected = index
        self.pending = payload

    def settle(self, index: int, flags: int, digest: int) -> None:
        """The expected outcome arrived."""
        self.expected = NOTHING_EXPECTED
        self.index = index
        self.flags = flags
        journal = self.journal
        if index:
            if journal is not None:
                journal.act(self.pending, digest)
        elif self.keeps_journal:
            self.journal = Journal()
            self.journal.begin(self.beginning.entry(self.spec), digest)
        self.pending = b""

    def raise_epoch(self) -> int:
        """The epoch of the next rebuild by this owner."""
        self.epoch += 1
        return self.epoch
