"""Words about jobs that every isolation uses."""

from __future__ import annotations

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb

__all__ = [
    "CHECKPOINT",
    "CLOSE",
    "RESET",
    "RESUME",
    "REWARD",
    "STEP",
    "cancelled",
    "during",
    "limit_exceeded",
    "stopped",
]

STEP, RESET, CLOSE = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET, pb.COMMAND_KIND_CLOSE
REWARD, CHECKPOINT, RESUME = pb.COMMAND_KIND_REWARD, pb.COMMAND_KIND_CHECKPOINT, pb.COMMAND_KIND_RESUME

_NAMES: dict[int, str] = {
    STEP: "step",
    RESET: "reset",
    CLOSE: "close",
    REWARD: "reward",
    CHECKPOINT: "checkpoint",
    RESUME: "resume",
}


def during(kind: int, index: int = 0) -> str:
    """What a command is called in a message: ``step 3``, ``reset``."""
    name = _NAMES.get(kind, f"command {kind}")
    return f"{name} {index}" if index and kind == STEP else name


def limit_exceeded(kind: int, index: int, limit_seconds: float, what_then: str) -> Refusal:
    """The refusal of a command that overran its limit."""
    return Refusal(
        f"{during(kind, index)} ran longer than its limit of {limit_seconds:g} s {what_then}",
        reason="LIMIT_EXCEEDED",
    )


def cancelled() -> Refusal:
    """The refusal of a command whose episode was closed meanwhile."""
    return Refusal("the episode was closed", reason="CANCELLED")


def stopped() -> Refusal:
    """For what was not done when the host stopped."""
    return Refusal("the host stopped", reason="PREEMPTED")
