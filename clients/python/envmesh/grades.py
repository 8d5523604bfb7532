"""What an environment's ``reward()`` has said, as its host sends it."""

from __future__ import annotations

from envmesh.env import RewardResult
from envmesh.v1 import environment_pb2 as pb

__all__ = ["read_grade"]


def read_grade(payload: bytes) -> RewardResult:
    """The grade in a serialized RewardResponse."""
    reply = pb.RewardResponse.FromString(payload)
    return RewardResult(
        value=reply.value,
        components={component.name: component.value for component in reply.components},
        valid=reply.valid,
        rationale=reply.rationale,
    )
