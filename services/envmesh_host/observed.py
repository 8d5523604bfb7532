"""What is observed between two looks at the metrics: plain lists and counts, for a list's append is all the fast path
can pay (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field

from envmesh_host.step_times import StepTimes

__all__ = ["Observed", "Traffic"]


@dataclass(slots=True)
class Observed:
    """Observations of one environment on their way into the metrics.

    Durations in seconds: the environment's own, and beside them, in the same order, ``totals`` from the arrival of the
    command to its reply; ``step_times`` has both of steps taken by the batch. ``outcomes`` counts episodes that are
    over, by outcome; ``failures`` those that failed, by cause; ``grades`` replies to Reward by whether they were valid;
    ``tool_calls`` calls of tools by what came of them; ``action_bytes`` and ``observation_bytes`` what steps carried.
    """

    step_seconds: list[float] = field(default_factory=list)
    step_totals: list[float] = field(default_factory=list)
    step_times: StepTimes = field(default_factory=StepTimes)
    reset_seconds: list[float] = field(default_factory=list)
    reset_totals: list[float] = field(default_factory=list)
    reward_seconds: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    grades: dict[bool, int] = field(default_factory=dict)
    components: dict[str, list[float]] = field(default_factory=dict)
    tool_calls: dict[str, int] = field(default_factory=dict)
    action_bytes: int = 0
    observation_bytes: int = 0


@dataclass(slots=True)
class Traffic:
    """Observations of a host's connections and commands, whichever environment they are for. A connection that ends
    leaves what it has observed here.

    ``commands`` counts those answered by (kind, reason), reason "" where all went well; ``seconds`` has, by kind, the
    time from a command's arrival to its reply, but for resets and steps (``Observed`` has them). ``resumes`` counts by
    (kind, cause), ``checkpoints`` those taken as (count, bytes) by where they are kept.
    """

    commands: dict[tuple[int, str], int] = field(default_factory=dict)
    seconds: dict[int, list[float]] = field(default_factory=dict)
    frame_sizes: list[int] = field(default_factory=list)
    frames_in: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    resumes: dict[tuple[str, str], int] = field(default_factory=dict)
    resume_seconds: list[float] = field(default_factory=list)
    replayed_steps: int = 0
    checkpoints: dict[str, tuple[int, int]] = field(default_factory=dict)
    checkpoint_failures: int = 0

    def note_command(self, kind: int, reason: str = "", count: int = 1) -> None:
        """Commands of a kind were answered."""
        key = kind, reason
        self.commands[key] = self.commands.get(key, 0) + count

    def note_seconds(self, kind: int, seconds: float) -> None:
        """A command took so long, from its arrival to its reply."""
        self.seconds.setdefault(kind, []).append(seconds)

    def note_resume(self, kind: str, cause: str) -> None:
        """An episode was resumed here."""
        self.resumes[kind, cause] = self.resumes.get((kind, cause), 0) + 1

    def note_checkpoint(self, store: str, size: int) -> None:
        """A checkpoint of so many bytes was taken, and is kept in the client's ``journal`` or in the ``store``."""
        count, total = self.checkpoints.get(store, (0, 0))
        self.checkpoints[store] = count + 1, total + size
