"""Errors: one small tree for callers, and one form for the wire.

On the wire every error is a ``google.rpc.Status`` with an ``ErrorInfo`` whose reason is a name of ``ErrorReason``;
where an episode ended by it, a ``Failure`` stands beside it. Services raise ``Refusal``; clients meet its
counterpart in the tree below.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from envmesh.v1 import environment_pb2, error_reason_pb2

__all__ = [
    "Backpressure",
    "DeadlineExceeded",
    "EnvmeshError",
    "EpisodeAborted",
    "EpisodeEnded",
    "EpisodeTakenOver",
    "Failure",
    "ForkedClient",
    "InvalidRequest",
    "MeshUnavailable",
    "MissingExtra",
    "NotFound",
    "PermissionDenied",
    "Refusal",
    "Unsupported",
]

DOMAIN = "envmesh"

_CODES: dict[str, grpc.StatusCode] = {
    "ENVIRONMENT_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "EPISODE_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "TASK_UNKNOWN": grpc.StatusCode.NOT_FOUND,
    "ACTION_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "SEED_UNSUPPORTED": grpc.StatusCode.INVALID_ARGUMENT,
    "OPTION_UNKNOWN": grpc.StatusCode.INVALID_ARGUMENT,
    "ARGUMENT_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "MALFORMED": grpc.StatusCode.INVALID_ARGUMENT,
    "EPOCH_STALE": grpc.StatusCode.ABORTED,
    "STEP_CONFLICT": grpc.StatusCode.ABORTED,
    "STEP_INDEX": grpc.StatusCode.OUT_OF_RANGE,
    "EPISODE_ENDED": grpc.StatusCode.FAILED_PRECONDITION,
    "UNSUPPORTED": grpc.StatusCode.FAILED_PRECONDITION,
    "VERSION_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "LEASE_INVALID": grpc.StatusCode.PERMISSION_DENIED,
    "SLOT_TAKEN": grpc.StatusCode.ABORTED,
    "NOT_YOURS": grpc.StatusCode.PERMISSION_DENIED,
    "CREDENTIAL_INVALID": grpc.StatusCode.UNAUTHENTICATED,
    "NO_CAPACITY": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "QUEUE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "QUOTA_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "GANG_IMPOSSIBLE": grpc.StatusCode.FAILED_PRECONDITION,
    "MESSAGE_TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DRAINING": grpc.StatusCode.UNAVAILABLE,
    "UNREACHABLE": grpc.StatusCode.UNAVAILABLE,
    "COMMAND_DEADLINE": grpc.StatusCode.DEADLINE_EXCEEDED,
    "CANCELLED": grpc.StatusCode.CANCELLED,
    "ENVIRONMENT_RAISED": grpc.StatusCode.UNKNOWN,
    "ENVIRONMENT_RETURNED": grpc.StatusCode.UNKNOWN,
    "REWARD_INVALID": grpc.StatusCode.UNKNOWN,
    "LIMIT_EXCEEDED": grpc.StatusCode.ABORTED,
    "WORKER_CRASHED": grpc.StatusCode.ABORTED,
    "WORKER_LOST": grpc.StatusCode.ABORTED,
    "WORKER_SUSPECTED": grpc.StatusCode.ABORTED,
    "HOST_LOST": grpc.StatusCode.ABORTED,
    "PREEMPTED": grpc.StatusCode.ABORTED,
    "POISON": grpc.StatusCode.ABORTED,
    "VERSION_GONE": grpc.StatusCode.ABORTED,
    "EXPIRED": grpc.StatusCode.ABORTED,
    "TAKEN_OVER": grpc.StatusCode.ABORTED,
    "REPLAY_DIVERGED": grpc.StatusCode.DATA_LOSS,
    "INTERNAL": grpc.StatusCode.INTERNAL,
    "SPARE": grpc.StatusCode.CANCELLED,
    "VERSION_RETIRING": grpc.StatusCode.FAILED_PRECONDITION,
}

ENDS_EPISODE = frozenset(
    {
        "ENVIRONMENT_RAISED",
        "ENVIRONMENT_RETURNED",
        "REWARD_INVALID",
        "LIMIT_EXCEEDED",
        "WORKER_CRASHED",
        "WORKER_LOST",
        "WORKER_SUSPECTED",
        "HOST_LOST",
        "PREEMPTED",
        "POISON",
        "VERSION_GONE",
        "EXPIRED",
        "TAKEN_OVER",
        "REPLAY_DIVERGED",
        "MESSAGE_TOO_LARGE",
        "SPARE",
    }
)
"""Reasons after which the episode is over, as aborted."""

_RETRYABLE = frozenset(
    {"WORKER_LOST", "WORKER_SUSPECTED", "HOST_LOST", "PREEMPTED", "EXPIRED", "UNREACHABLE", "NO_CAPACITY"}
)
_REWARDS_VALID = frozenset({"SPARE"})
_STATUS_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Failure:
    """How an episode failed; a failure is never a reward.

    ``cause`` is a name of ``ErrorReason``. ``retryable``: a new episode with this seed may succeed.
    ``reward_valid``: the rewards of the completed steps may be used.
    """

    cause: str
    message: str = ""
    retryable: bool = False
    reward_valid: bool = False

    @classmethod
    def of(cls, cause: str, message: str = "") -> Failure:
        """The failure that goes with a cause."""
        return cls(cause, message, cause in _RETRYABLE, cause in _REWARDS_VALID)


def written_failure(failure: Failure | None) -> dict[str, Any] | None:
    """A failure as JSON."""
    return None if failure is None else asdict(failure)


def read_failure(data: dict[str, Any] | None) -> Failure | None:
    """And back."""
    return None if data is None else Failure(**data)


def sayable(text: str) -> str:
    """A text that has a form in UTF-8, on the wire and in logs: an exception may name a file whose name has none."""
    return text.encode("utf-8", "backslashreplace").decode()


class EnvmeshError(Exception):
    """Anything envmesh says went wrong. ``reason`` is a name of ``ErrorReason``, ``code`` its gRPC status code."""

    reason = "INTERNAL"

    def __init__(
        self, message: str, *, reason: str | None = None, detail: str = "", retry_after: float | None = None
    ):
        super().__init__(sayable(message))
        if reason is not None:
            self.reason = reason
        self.detail = sayable(detail)
        self.retry_after = retry_after

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code that belongs to the reason."""
        return _CODES.get(self.reason, grpc.StatusCode.UNKNOWN)

    def __str__(self) -> str:
        return f"{super().__str__()} [{self.reason}]"


class NotFound(EnvmeshError):
    """No such environment, task or episode."""

    reason = "ENVIRONMENT_UNKNOWN"


class InvalidRequest(EnvmeshError):
    """An argument was wrong (a bad action, seed, option); the episode is unharmed."""

    reason = "ARGUMENT_INVALID"


class EpisodeEnded(EnvmeshError):
    """A step after the end, or before the beginning."""

    reason = "EPISODE_ENDED"


class Unsupported(EnvmeshError):
    """Something that this environment, or this episode, does not offer; the episode is unharmed."""

    reason = "UNSUPPORTED"


class EpisodeAborted(EnvmeshError):
    """The episode is over without an outcome; ``failure`` says how."""

    reason = "HOST_LOST"

    @property
    def failure(self) -> Failure:
        """The failure this error stands for."""
        return Failure.of(self.reason, super().__str__())


class EpisodeTakenOver(EpisodeAborted):
    """Another client instance owns the episode now."""

    reason = "TAKEN_OVER"


class PermissionDenied(EnvmeshError):
    """A lease, token or credential that does not give this right."""

    reason = "LEASE_INVALID"


class Backpressure(EnvmeshError):
    """No room now; ``retry_after`` says when to ask again, in seconds."""

    reason = "NO_CAPACITY"


class MeshUnavailable(EnvmeshError):
    """Nobody answers, or the client is closed."""

    reason = "UNREACHABLE"


class DeadlineExceeded(EnvmeshError, TimeoutError):
    """The caller's patience ended; an episode waits at the same step."""

    reason = "COMMAND_DEADLINE"


class ForkedClient(EnvmeshError):
    """A client was used in a forked child; connect anew there."""

    reason = "UNSUPPORTED"


class MissingExtra(EnvmeshError, ImportError):
    """A feature needs packages that are not installed; the message names the extra."""

    reason = "UNSUPPORTED"


class Refusal(EnvmeshError):
    """What a service answers instead of a reply."""

    @property
    def ends_episode(self) -> bool:
        """Whether the episode is over by it."""
        return self.reason in ENDS_EPISODE

    def to_status(self) -> status_pb2.Status:
        """The wire form."""
        status = status_pb2.Status(code=self.code.value[0], message=Exception.__str__(self))
        details = [error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN)]
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(self.retry_after * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.detail:
            details.append(error_details_pb2.DebugInfo(detail=self.detail))
        if self.ends_episode:
            failure = Failure.of(self.reason)
            details.append(
                environment_pb2.Failure(
                    cause=error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{self.reason}"),
                    retryable=failure.retryable,
                    reward_valid=failure.reward_valid,
                    message=Exception.__str__(self),
                )
            )
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status


_CLASSES: dict[str, type[EnvmeshError]] = {
    "ENVIRONMENT_UNKNOWN": NotFound,
    "EPISODE_UNKNOWN": NotFound,
    "TASK_UNKNOWN": NotFound,
    "EPISODE_ENDED": EpisodeEnded,
    "UNSUPPORTED": Unsupported,
    "VERSION_MISMATCH": InvalidRequest,
    "VERSION_RETIRING": InvalidRequest,
    "STEP_CONFLICT": InvalidRequest,
    "STEP_INDEX": InvalidRequest,
    "GANG_IMPOSSIBLE": InvalidRequest,
    "EPOCH_STALE": EpisodeTakenOver,
    "TAKEN_OVER": EpisodeTakenOver,
    "LEASE_INVALID": PermissionDenied,
    "NOT_YOURS": PermissionDenied,
    "CREDENTIAL_INVALID": PermissionDenied,
    "SLOT_TAKEN": Backpressure,
    "NO_CAPACITY": Backpressure,
    "QUEUE_FULL": Backpressure,
    "QUOTA_EXCEEDED": Backpressure,
    "DRAINING": MeshUnavailable,
    "UNREACHABLE": MeshUnavailable,
    "COMMAND_DEADLINE": DeadlineExceeded,
    "CANCELLED": EpisodeAborted,
    "INTERNAL": EnvmeshError,
}
_CLASS_BY_CODE: dict[grpc.StatusCode, type[EnvmeshError]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: EpisodeEnded,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Backpressure,
    grpc.StatusCode.UNAVAILABLE: MeshUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.ABORTED: EpisodeAborted,
    grpc.StatusCode.DATA_LOSS: EpisodeAborted,
}
_REASON_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: "UNREACHABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "COMMAND_DEADLINE",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "MESSAGE_TOO_LARGE",
    grpc.StatusCode.CANCELLED: "CANCELLED",
    grpc.StatusCode.UNAUTHENTICATED: "CREDENTIAL_INVALID",
    grpc.StatusCode.PERMISSION_DENIED: "NOT_YOURS",
}


def from_status(status: status_pb2.Status) -> EnvmeshError:
    """The exception of the tree that a wire status stands for."""
    code = _STATUS_BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    reason, detail, retry_after = "", "", None
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            packed.Unpack(info)
            if info.domain == DOMAIN and info.reason in _CODES:
                reason = info.reason
        elif packed.Is(error_details_pb2.DebugInfo.DESCRIPTOR):
            debug = error_details_pb2.DebugInfo()
            packed.Unpack(debug)
            detail = debug.detail
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            packed.Unpack(retry)
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    reason = reason or _REASON_BY_CODE.get(code, "INTERNAL")
    kind = _CLASSES.get(reason)
    if kind is None:
        kind = EpisodeAborted if reason in ENDS_EPISODE else _CLASS_BY_CODE.get(code, EnvmeshError)
    return kind(status.message or code.name, reason=reason, detail=detail, retry_after=retry_after)


def from_rpc_error(error: grpc.RpcError) -> EnvmeshError:
    """The exception of the tree that a failed call stands for."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    trailers: Any = (error.trailing_metadata() if hasattr(error, "trailing_metadata") else None) or ()
    for key, value in trailers:
        if key == "grpc-status-details-bin":
            return from_status(status_pb2.Status.FromString(value))
    details = (error.details() if hasattr(error, "details") else None) or code.name
    return from_status(status_pb2.Status(code=code.value[0], message=details))


assert set(_CODES) == {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()} - {
    "UNSPECIFIED"
}, "every reason has a status code"
assert code_pb2.Code.Value("DATA_LOSS") == grpc.StatusCode.DATA_LOSS.value[0]
