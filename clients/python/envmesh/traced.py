"""Players of episodes that are traced: nobody else pays for it. They play alone, not in a block."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from envmesh.measured import MeasuredPolicyPlayer, MeasuredTaskPlayer
from envmesh.players import PolicyPlayer
from envmesh.task_player import TaskPlayer
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.episode import Beginning
    from envmesh.outcome import EnvironmentSpec, Resume, Trajectory
    from envmesh.rollout_run import RolloutRun
    from envmesh.slot import Slot

__all__ = ["player_of"]


class Traced(PolicyPlayer):
    """Tells the trace what is asked and answered."""

    __slots__ = ()

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """An outcome came."""
        assert self.trace is not None
        self.trace.command(f"step {index}" if index else "reset", self.sent_at)
        super().on_outcome(index, payload, reward, flags, digest, info)
        if flags & 3:
            self.sent_at = perf_counter()  # a grade may follow

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """A grade, or a failure."""
        if kind == pb.EVENT_KIND_REWARD and self.trace is not None:
            self.trace.command("reward", self.sent_at)
        super().on_event(kind, index, payload)

    def play(self, data: bytes) -> None:
        """Send the next step."""
        self.sent_at = perf_counter()
        super().play(data)

    def arrive(self, slot: Slot, handle: int, resume: Resume) -> None:
        """There is a copy again."""
        super().arrive(slot, handle, resume)
        if self.trace is not None:
            self.trace.resumed(resume)

    def _unbind(self) -> None:
        super()._unbind()
        if self.trace is not None:
            failure = self.trajectory.failure
            why = "" if failure is None else f"{failure.cause}: {failure.message}"
            self.trace.end(self.index, self.flags, why)


class TracedPolicyPlayer(Traced):
    """A ``PolicyPlayer`` whose episode is traced."""

    __slots__ = ()


class TracedTaskPlayer(Traced, TaskPlayer):
    """The same for asynchronous policies."""

    __slots__ = ()


class TracedMeasuredPolicyPlayer(Traced, MeasuredPolicyPlayer):
    """One that is measured too."""

    __slots__ = ()


class TracedMeasuredTaskPlayer(Traced, MeasuredTaskPlayer):
    """The same for asynchronous policies."""

    __slots__ = ()


_TRACED: dict[type[PolicyPlayer], type[PolicyPlayer]] = {
    PolicyPlayer: TracedPolicyPlayer,
    TaskPlayer: TracedTaskPlayer,
    MeasuredPolicyPlayer: TracedMeasuredPolicyPlayer,
    MeasuredTaskPlayer: TracedMeasuredTaskPlayer,
}


def player_of(
    run: RolloutRun,
    kind: type[PolicyPlayer],
    slot: Slot,
    spec: EnvironmentSpec,
    beginning: Beginning,
    trajectory: Trajectory,
    retries: int,
) -> PolicyPlayer:
    """Who plays the next episode: one of this kind, or of its traced form where the episode is to have a trace."""
    traces = run.mesh.traces
    trace = None if traces is None else traces.begin(trajectory.episode_id, spec.key, slot.acquired)
    if trace is None:
        return kind(run, slot, spec, beginning, trajectory, retries, run.block(slot, spec))
    player = _TRACED[kind](run, slot, spec, beginning, trajectory, retries, None)
    player.trace = trace
    return player
