"""The author's ``digest(observation)``: what must be equal in a replay, where an observation itself is not (a time in
it, an order that nobody promises)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from envmesh import values
from envmesh.digest import digest_of, suffix
from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.overrun import StepOverrun
from envmesh_host.shown import raised, said

__all__ = ["has_own_digest", "judged_by"]

Row = tuple[bytes, float, int, int, bytes]
_ENDED = pb.OUTCOME_FLAG_TERMINATED | pb.OUTCOME_FLAG_TRUNCATED


def has_own_digest(instance: Any) -> bool:
    """Whether the author says what must be equal."""
    return callable(getattr(instance, "digest", None))


def judged_by(instance: Any, write: Callable[[Any], Row]) -> Callable[[Any], Row]:
    """How this instance's outcomes are written: what its ``digest`` makes of an observation is digested in the place of
    the observation."""

    def judged(result: Any) -> Row:
        payload, reward, flags, _, info = write(result)
        try:
            value = instance.digest(result[0])
        except StepOverrun:
            raise
        except BaseException as error:
            raise raised("digest", error) from error
        try:
            data = values.encode(value)
        except Exception as error:  # whatever an author's objects raise when they are looked at
            raise Refusal(f"digest(): {said(error)}", reason="ENVIRONMENT_RETURNED") from None
        return payload, reward, flags, digest_of(data, suffix(reward, flags & _ENDED)), info

    return judged
