"""What the callers of an episode look at: its last outcome, whether or not somebody waited for it."""

from __future__ import annotations

from typing import Any

from envmesh.episode import EpisodeState
from envmesh.errors import EpisodeEnded, InvalidRequest
from envmesh.outcome import Outcome

__all__ = ["LastOutcome", "another_action"]


class LastOutcome(EpisodeState):
    """The last outcome. Where it came when nobody waited for it any more (a caller had lost patience), it is kept
    for who awaits that step again, until somebody looks at it."""

    __slots__ = ("_last", "_unheard")

    _last: Outcome | None
    _unheard: bytes | None
    """The action that led to the last outcome, where nobody has heard of it."""

    @property
    def outcome(self) -> Outcome:
        """The last outcome."""
        if self._last is None:
            raise EpisodeEnded("the episode has not begun: use it in `async with`", reason="ARGUMENT_INVALID")
        self._unheard = None
        return self._last

    @property
    def observation(self) -> Any:
        """What was observed last."""
        return self.outcome.observation

    @property
    def info(self) -> Any:
        """The info that came with it."""
        return self.outcome.info

    @property
    def acting(self) -> tuple[str, ...]:
        """With several agents: who must act next."""
        return getattr(self.outcome, "acting", ())

    @property
    def seed(self) -> int | None:
        """The seed it was reset with."""
        return self.beginning.seed

    @property
    def last_digest(self) -> int | None:
        """The digest of the last outcome."""
        return self._last.digest if self._last is not None else None

    def _heard_now(self, action: bytes) -> Outcome:
        """The outcome that nobody has heard of, for who awaits its step again. Raises: InvalidRequest."""
        if action != self._unheard:
            raise another_action(self.index)
        return self.outcome


def another_action(index: int) -> InvalidRequest:
    """What is said of another action at a step that was sent already."""
    return InvalidRequest(
        f"another action was sent at step {index} before: await that one again, or look at `outcome` once it is there",
        reason="STEP_CONFLICT",
    )
