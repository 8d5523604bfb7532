"""Players that note how long each step takes, for whoever asks (``measure=True``): nobody else pays for a clock.

The seconds from each action to its outcome go to the ``step_seconds`` of the run and of the trajectory.
"""

from __future__ import annotations

from array import array
from time import perf_counter

from envmesh.players import PolicyPlayer
from envmesh.task_player import TaskPlayer

__all__ = ["MeasuredPolicyPlayer", "MeasuredTaskPlayer"]


class MeasuredPolicyPlayer(PolicyPlayer):
    """A ``PolicyPlayer`` that notes its steps' seconds."""

    __slots__ = ()

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """An outcome came."""
        note_seconds(self, index)
        super().on_outcome(index, payload, reward, flags, digest, info)

    def play(self, data: bytes) -> None:
        """Send the next step."""
        self.sent_at = perf_counter()
        super().play(data)


class MeasuredTaskPlayer(MeasuredPolicyPlayer, TaskPlayer):
    """The same for asynchronous policies."""

    __slots__ = ()


def note_seconds(player: PolicyPlayer, index: int) -> None:
    """An outcome came: how long it took."""
    if not index:
        player.trajectory.step_seconds = array("d")
        return
    seconds = perf_counter() - player.sent_at
    player.run.step_seconds.append(seconds)
    measured = player.trajectory.step_seconds
    if measured is not None:  # the trainer that began this episode is gone, and what it measured
        measured.append(seconds)  # type: ignore[attr-defined]
