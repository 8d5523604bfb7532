"""What has ended of a run and waits to be fetched: trajectories, and groups as they fill."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from envmesh.env import RewardResult
from envmesh.errors import read_failure, written_failure
from envmesh.groups import Group
from envmesh.journal_file import EpisodeLog
from envmesh.outcome import Trajectory
from envmesh.progress import Progress
from envmesh.recording import Recorder

if TYPE_CHECKING:
    from envmesh.mesh import Mesh

__all__ = ["RolloutResults", "read_end"]


def written_end(trajectory: Trajectory) -> dict[str, Any]:
    """What a journal keeps of an episode's end, as JSON."""
    grade = trajectory.grade
    return {
        "flags": trajectory.flags, "failure": written_failure(trajectory.failure), "seconds": trajectory.seconds,
        "grade": None if grade is None else asdict(grade),
    }  # fmt: skip


def read_end(ended: dict[str, Any], trajectory: Trajectory) -> None:
    """And back."""
    trajectory.flags = ended["flags"]
    trajectory.failure = read_failure(ended["failure"])
    trajectory.seconds = ended.get("seconds", 0.0)
    if (grade := ended.get("grade")) is not None:
        trajectory.grade = RewardResult(**grade)


class RolloutResults:
    """Its length is how many may be fetched: whole groups where ``group_size`` > 1. Each trajectory is recorded, shown
    in the progress and counted as it ends; the journal forgets it when whoever fetched it comes back for more."""

    def __init__(self, mesh: Mesh, group_size: int, recorder: Recorder | None, progress: Progress | None):
        self._mesh = mesh
        self._group_size = group_size
        self._recorder = recorder
        self._progress = progress
        self._ready: deque[Any] = deque()
        self._groups: dict[int, Group] = {}
        self._members: dict[int, set[Any]] = {}
        self._logs: dict[int, list[EpisodeLog]] = {}
        """Of what is ready, by its id; of the group with number n, while it fills, by -1 - n."""
        self._handed: list[EpisodeLog] = []

    def __len__(self) -> int:
        return len(self._ready)

    def start(self) -> None:
        """Episodes begin."""
        if self._progress is not None:
            self._progress.start()

    def close(self) -> None:
        """Nothing more ends."""
        if self._progress is not None:
            self._progress.close()
        if self._recorder is not None:
            self._recorder.close()

    # ---- fetching

    def take(self, most: int) -> list[Any]:
        """The oldest of what is ready, up to ``most``."""
        self.all_were_had()
        taken = [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
        if self._logs:
            self._handed = [log for result in taken for log in self._logs.pop(id(result), ())]
        return taken

    def all_were_had(self) -> None:
        """Whoever took the last has come back for more, and so has it."""
        for log in self._handed:
            log.done()
        self._handed = []

    # ---- members of groups

    def expect(self, player: Any) -> None:
        """An episode begins; its group, if it has one, waits for it."""
        number = player.beginning.group
        if number is not None:
            self._members.setdefault(number, set()).add(player)

    def expect_no_more(self, player: Any) -> None:
        """An episode is not one of its group any more: it is played again, as another."""
        self._members.get(player.beginning.group, set()).discard(player)

    # ---- ends

    def waits_for(self, player: Any) -> bool:
        """Whether an episode that was expected is still wanted: its group is not full."""
        number = player.beginning.group
        return number is None or player in self._members.get(number, ())

    def add(self, player: Any, trajectory: Trajectory, live: int, to_come: int) -> Collection[Any] | None:
        """An episode is over for good, ``live`` are being played now, and ``to_come`` of its group have not begun yet.
        Where its group is full with it, returns the stragglers, which nobody waits for any more; else None.

        Raises:
            OSError: it cannot be recorded, on a full disk say. TypeError, ValueError: its annotations cannot.
        """
        if self._recorder is not None:
            self._recorder.write(trajectory)
        if self._progress is not None:
            self._progress.advance(trajectory, live)
        meters, number = self._mesh.meters, trajectory.group
        if meters is not None:
            meters.ended(trajectory)
        if player.log is not None:
            player.log.end(written_end(trajectory))
            self._logs.setdefault(id(trajectory) if number is None else -1 - number, []).append(player.log)
        if number is None:
            self._ready.append(trajectory)
            return None
        members = self._members.setdefault(number, set())
        members.discard(player)
        group = self._groups.setdefault(number, Group(trajectory.seed, trajectory.task))
        others = len(members) + to_come
        may_fill_without = others and len(group) + others >= self._group_size
        if trajectory.failure is not None and may_fill_without:
            return None
        group.append(trajectory)
        if len(group) < self._group_size:
            return None
        del self._groups[number], self._members[number]
        if (logs := self._logs.pop(-1 - number, None)) is not None:
            self._logs[id(group)] = logs + [member.log for member in members if member.log is not None]
        if meters is not None:
            meters.grouped(group)
        self._ready.append(group)
        return members
