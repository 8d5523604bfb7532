"""What an AcquireRequest may say, for whoever answers it: a broker, or a host alone."""

from __future__ import annotations

from dataclasses import dataclass

from envmesh.errors import Refusal
from envmesh.v1 import placement_pb2

__all__ = ["Ask", "Wish", "read_ask", "read_reservation"]

_DEFAULT_TIMEOUT = 600.0
_MOST_TIMEOUT = 86_400.0
_MOST_SLOTS = 100_000
_MOST_AVOIDED = 10_000
_DEFAULT_LASTS = 300.0
_MOST_AHEAD = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """An AcquireRequest that can be meant. ``timeout`` is in seconds; 0: only what is free now."""

    environment: str
    count: int
    timeout: float
    whole: bool
    group_size: int
    priority: int
    client_id: bytes
    relocation: bool
    retried: bool
    avoid: frozenset[str]

    @property
    def least(self) -> int:
        """The fewest slots that are of any use at once."""
        return self.count if self.whole else self.group_size


def read_ask(request: placement_pb2.AcquireRequest) -> Ask:
    """What a request asks for, its defaults filled in.

    Raises:
        Refusal: INVALID_ARGUMENT ARGUMENT_INVALID: a field is out of its range; the message says which and what would
            be right.
    """
    timeout = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else _DEFAULT_TIMEOUT
    group_size = request.group_size or 1
    for wrong, what in (
        (not 0 < len(request.environment) <= 201, "environment must be name or name@version"),
        (not 0 < request.count <= _MOST_SLOTS, f"count must be 1 to {_MOST_SLOTS:,}; got {request.count}"),
        (
            request.mode not in placement_pb2.AcquireMode.values(),
            f"mode {request.mode} is not one that is known here",
        ),
        (bool(request.count % group_size), f"group_size {group_size} must divide count {request.count}"),
        (abs(request.priority) > 100, f"priority must be -100 to 100; got {request.priority}"),
        (not 0 <= timeout <= _MOST_TIMEOUT, f"timeout must be 0 s to 24 h; got {timeout:g} s"),
        (len(request.client_id) not in (0, 16), f"client_id has 16 bytes; got {len(request.client_id)}"),
        (len(request.avoid_hosts) > _MOST_AVOIDED, f"avoid_hosts lists more than {_MOST_AVOIDED:,} hosts"),
    ):
        if wrong:
            raise Refusal(what, reason="ARGUMENT_INVALID")
    return Ask(
        environment=request.environment,
        count=request.count,
        timeout=timeout,
        whole=request.mode == placement_pb2.ACQUIRE_MODE_ALL,
        group_size=group_size,
        priority=request.priority,
        client_id=request.client_id,
        relocation=request.relocation,
        retried=request.retried,
        avoid=frozenset(request.avoid_hosts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A ReserveRequest that can be meant. Times in seconds."""

    reservation_id: bytes
    environment: str
    slots: int
    starts_in: float
    lasts: float
    client_id: bytes


def read_reservation(request: placement_pb2.ReserveRequest) -> Wish:
    """What a request announces, its defaults filled in.

    Raises:
        Refusal: INVALID_ARGUMENT ARGUMENT_INVALID: a field is out of its range; the message says which and what would
            be right.
    """
    starts_in = request.starts_in.ToNanoseconds() / 1e9
    lasts = request.lasts.ToNanoseconds() / 1e9 if request.HasField("lasts") else _DEFAULT_LASTS
    for wrong, what in (
        (
            len(request.reservation_id) != 16,
            f"reservation_id has 16 bytes; got {len(request.reservation_id)}",
        ),
        (not 0 < len(request.environment) <= 201, "environment must be name or name@version"),
        (request.slots > _MOST_SLOTS, f"slots must be 0 to {_MOST_SLOTS:,}; got {request.slots}"),
        (not 0 <= starts_in <= _MOST_AHEAD, f"starts_in must be 0 s to 7 days; got {starts_in:g} s"),
        (not 0 < lasts <= _MOST_TIMEOUT, f"lasts must be more than 0 s and at most 24 h; got {lasts:g} s"),
        (len(request.client_id) != 16, f"client_id has 16 bytes; got {len(request.client_id)}"),
    ):
        if wrong:
            raise Refusal(what, reason="ARGUMENT_INVALID")
    return Wish(
        reservation_id=request.reservation_id,
        environment=request.environment,
        slots=request.slots,
        starts_in=starts_in,
        lasts=lasts,
        client_id=request.client_id,
    )
