"""Players that note how long each step takes, for whoever asks (``measure=True``): nobody else pays for a clock."""

from __future__ import annotations

from time import perf_counter

from envmesh.players import PolicyPlayer, TaskPlayer

__all__ = ["MeasuredPolicyPlayer", "MeasuredTaskPlayer"]


class MeasuredPolicyPlayer(PolicyPlayer):
    """A ``PolicyPlayer`` that adds the seconds from each action to its outcome to ``rollouts.step_seconds``."""

    __slots__ = ()

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """An outcome came."""
        if index:
            self.rollouts.step_seconds.append(perf_counter() - self.sent_at)
        super().on_outcome(index, payload, reward, flags, digest, info)

    def play(self, data: bytes) -> None:
        """Send the next step."""
        self.sent_at = perf_counter()
        super().play(data)


class MeasuredTaskPlayer(TaskPlayer):
    """The same for asynchronous policies."""

    __slots__ = ()

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """An outcome came."""
        if index:
            self.rollouts.step_seconds.append(perf_counter() - self.sent_at)
        super().on_outcome(index, payload, reward, flags, digest, info)

    def play(self, data: bytes) -> None:
        """Send the next step."""
        self.sent_at = perf_counter()
        super().play(data)
