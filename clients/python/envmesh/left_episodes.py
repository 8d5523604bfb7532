"""What the former owner of a journal has left of rollouts, for the run that goes on with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envmesh.beginnings import beginning_of, spec_as_written
from envmesh.outcome import Trajectory
from envmesh.players import PolicyPlayer
from envmesh.rollout_results import read_end
from envmesh.slot import FormerHost, Slot, StandInBinding

if TYPE_CHECKING:
    from envmesh.journal_file import JournalFile
    from envmesh.journal_records import Unfinished
    from envmesh.rollout_run import RolloutRun

__all__ = ["LeftEpisodes"]


class LeftEpisodes:
    """The episodes of a run that had begun and not ended, and wait to be taken up; true while there are any."""

    def __init__(self, run: RolloutRun):
        self._run = run
        self._waiting: dict[PolicyPlayer, Unfinished] = {}
        self._taking_up = self._over_at_once = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def find(self, journal: JournalFile, name: str) -> tuple[list[PolicyPlayer], list[PolicyPlayer]]:
        """Whatever there is of the run of that name: who plays on from where it was, and who has played to the end,
        those that did not fail first."""
        ended: list[PolicyPlayer] = []
        for unfinished in [u for u in journal.unfinished.values() if u.beginning["run"] == name]:
            player = self._player_of(journal, unfinished)
            if unfinished.ended is None:
                self._waiting[player] = unfinished
            else:
                player.trajectory.fill(unfinished.rows, unfinished.actions)
                read_end(unfinished.ended, player.trajectory)
                ended.append(player)
        return list(self._waiting), sorted(ended, key=lambda each: each.trajectory.failure is not None)

    def _player_of(self, journal: JournalFile, unfinished: Unfinished) -> PolicyPlayer:
        """Who plays, or has played, an episode."""
        run = self._run
        assert run.spec is not None
        beginning = beginning_of(unfinished.beginning)
        spec = spec_as_written(run.spec, unfinished.beginning)
        trajectory = Trajectory(
            spec, unfinished.episode_id, seed=beginning.seed, options=None,
            packed_options=beginning.packed_options, task=beginning.task, split=beginning.split, group=beginning.group,
        )  # fmt: skip
        trajectory.annotations = unfinished.annotations or None
        policy, kind = (None, PolicyPlayer) if unfinished.ended is not None else run.policy_of(beginning)
        slot = Slot(StandInBinding(FormerHost(*unfinished.host), spec))
        player = kind(run, slot, spec, beginning, trajectory, run.retries, None)
        player.policy = policy
        player.log = journal.log_of(unfinished)
        return player

    def take_up(self) -> None:
        """Go on with as many as may be played at once; the others follow as these end."""
        if self._taking_up:  # one was over at once: whoever took it up goes on with the next
            self._over_at_once = True
            return
        self._taking_up = True
        while self._waiting and self._run.has_room:
            player = next(iter(self._waiting))
            unfinished = self._waiting.pop(player)
            self._run.note_live(player)
            player.take_up(unfinished)
        self._taking_up = False
        if self._over_at_once and not self._waiting:
            self._over_at_once = False
            self._run.fill()

    def leave(self, player: PolicyPlayer) -> None:
        """Nobody waits for this one any more."""
        self._waiting.pop(player, None)
