"""Refusals that several parts of a host give."""

from __future__ import annotations

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.copy import EpisodeCopy
from envmesh_host.hosted import Hosted
from envmesh_host.served import Row, size_of

__all__ = [
    "defective",
    "over",
    "overran",
    "stale_copy",
    "too_large",
    "too_large_to_save",
    "unknown_episode",
]


def defective(error: Exception, where: str = "") -> Refusal:
    """The refusal of what met a defect of ours."""
    what = f"a defect of envmesh ({type(error).__name__}){where}; the host's log has it"
    return Refusal(what, reason="INTERNAL")


def overran(environment: Hosted, kind: int) -> Refusal:
    """The refusal of a command that ran longer than its environment's limit."""
    name = pb.CommandKind.Name(kind).removeprefix("COMMAND_KIND_").lower()  # type: ignore[arg-type]
    return Refusal(
        f"a {name} of {environment.key} ran longer than its limit of {environment.limit(kind):g} s",
        reason="LIMIT_EXCEEDED",
    )


def unknown_episode() -> Refusal:
    """The refusal of a command for an episode that has no copy here."""
    return Refusal(
        "this host holds no copy of the episode; resume it from its journal", reason="EPISODE_UNKNOWN"
    )


def stale_copy() -> Refusal:
    """The refusal of what was under way in a copy when a newer epoch came."""
    return Refusal("a newer epoch of this episode began", reason="EPOCH_STALE")


def too_large(copy: EpisodeCopy, row: Row, bound: int) -> Refusal:
    """The refusal of an outcome or grade over the bound on values."""
    return Refusal(f"{copy.environment.key} returned {over(size_of(row), bound)}", reason="MESSAGE_TOO_LARGE")


def too_large_to_save(copy: EpisodeCopy, why: str) -> Refusal:
    """The refusal of a checkpoint that is too large."""
    return Refusal(f"the checkpoint of {copy.environment.key} is too large: {why}", reason="UNSUPPORTED")


def over(size: int, bound: int) -> str:
    """That so many bytes are more than a value may have."""
    return (
        f"{size:,} bytes; the bound is {bound:,} "
        "(max_value_bytes of the host, or what max_message_bytes of the client leaves)"
    )
