"""The messages that the tests send, from the generated code alone: values, episodes with their journals, leases."""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import timestamp_pb2
from google.rpc import error_details_pb2, status_pb2
from xxhash import xxh3_64_intdigest

from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import error_reason_pb2, placement_pb2, value_pb2

FIRST_EPOCH = 1 << 32
"""Owner 1, rebuild 0."""

NEXT_OWNER = 1 << 32
"""Added to an epoch, it is the next owner's."""

DOMAIN = "envmesh"


def value(content: Any) -> value_pb2.Value:
    """A Value of what the tests use: None, text, whole numbers, bytes, and maps of these."""
    match content:
        case None:
            return value_pb2.Value()
        case str():
            return value_pb2.Value(text=content)
        case int():
            return value_pb2.Value(integer=content)
        case bytes():
            return value_pb2.Value(blob=value_pb2.Blob(data=content))
        case dict():
            entries = [value_pb2.ValueEntry(key=key, value=value(content[key])) for key in sorted(content)]
            return value_pb2.Value(map=value_pb2.ValueMap(entries=entries))
        case _:
            raise TypeError(f"the tests send no {type(content).__name__}")


def content(message: value_pb2.Value) -> Any:
    """What a Value says, for those that the tests expect."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return None
    if kind == "blob":
        return message.blob.data
    if kind == "map":
        return {entry.key: content(entry.value) for entry in message.map.entries}
    if kind == "json":
        return int(message.json)
    return getattr(message, kind)


def digest(outcome: pb.Outcome) -> int:
    """The outcome digest, as value.proto says it."""
    data = outcome.observation.SerializeToString(deterministic=True)
    if outcome.HasField("agents"):
        agents = pb.AgentOutcomes()
        agents.CopyFrom(outcome.agents)
        for each in agents.outcomes:
            each.ClearField("info")
        data = agents.SerializeToString(deterministic=True)
    suffix = struct.pack("<dB", outcome.reward, outcome.terminated + 2 * outcome.truncated)
    return xxh3_64_intdigest(data + suffix)


# ---- episodes


@dataclass(slots=True)
class Episode:
    """An episode as its client knows it: its name on the wire, and how it came to be where it is."""

    environment: str
    episode_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    epoch: int = FIRST_EPOCH
    journal: pb.Journal = field(default_factory=lambda: pb.Journal(format_version=1))

    def at_epoch(self, epoch: int) -> Episode:
        """The same episode under another epoch, with a journal of its own."""
        return replace(self, epoch=epoch, journal=self.copied_journal())

    def rebuilt(self) -> Episode:
        """The same episode, one rebuild later."""
        return self.at_epoch(self.epoch + 1)

    def taken_over(self) -> Episode:
        """The same episode under its next owner."""
        return self.at_epoch(self.epoch + NEXT_OWNER)

    def in_other_hands(self) -> Episode:
        """The same episode in other hands."""
        return self.at_epoch(self.epoch)

    def fork(self) -> Episode:
        """Another episode with the same past."""
        return replace(self, episode_id=secrets.token_bytes(16), journal=self.copied_journal())

    def copied_journal(self) -> pb.Journal:
        """A copy to be altered."""
        copied = pb.Journal()
        copied.CopyFrom(self.journal)
        return copied

    def note_reset(self, reset: pb.ResetEntry, outcome: pb.Outcome) -> None:
        """The journal begins."""
        if not self.journal.entries:
            self.journal.entries.add(reset=reset, digest=outcome.digest)

    def note_step(self, action: value_pb2.Value, outcome: pb.Outcome) -> None:
        """The journal goes on, unless the outcome is known already."""
        if outcome.index == self.index + 1:
            self.journal.entries.add(act=action.SerializeToString(deterministic=True), digest=outcome.digest)

    def note_checkpoint(self, sealed: pb.SealedCheckpoint) -> None:
        """The journal begins anew."""
        del self.journal.entries[:]
        self.journal.entries.add(checkpoint=sealed)

    @property
    def index(self) -> int:
        """The step index that the journal leads to; -1 before the reset."""
        at = -1
        for entry in self.journal.entries:
            kind = entry.WhichOneof("entry")
            at = entry.checkpoint.index if kind == "checkpoint" else at + (kind != "reseed")
        return at


# ---- errors


class Refused(Exception):
    """What a host answered instead of a reply: the google.rpc.Status, taken apart."""

    def __init__(self, status: status_pb2.Status):
        self.status = status
        self.code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        self.message = status.message
        self.reason = ""
        self.failure: pb.Failure | None = None
        self.retry_after: float | None = None
        self.detail = ""
        for packed in status.details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            debug, failure = error_details_pb2.DebugInfo(), pb.Failure()
            if packed.Unpack(info) and info.domain == DOMAIN:
                self.reason = info.reason
            elif packed.Unpack(retry):
                self.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
            elif packed.Unpack(debug):
                self.detail = debug.detail
            elif packed.Unpack(failure):
                self.failure = failure
        super().__init__(f"{self.code.name} {self.reason}: {self.message}")

    @property
    def verdict(self) -> str:
        """Code and reason, as docs/protocol.md writes them."""
        return f"{self.code.name} {self.reason}"

    @property
    def cause(self) -> str:
        """The cause of the Failure, where the episode ended."""
        if self.failure is None:
            return ""
        return error_reason_pb2.ErrorReason.Name(self.failure.cause).removeprefix("ERROR_REASON_")


def refused_by(error: grpc.aio.AioRpcError) -> Refused:
    """The refusal behind a failed call."""
    for key, data in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(data, bytes):
            return Refused(status_pb2.Status.FromString(data))
    return Refused(status_pb2.Status(code=error.code().value[0], message=error.details() or ""))


# ---- leases


def signed_lease(key: Ed25519PrivateKey, key_id: bytes, **claims: Any) -> bytes:
    """The token of a lease that says what it is told to say. ``show_before`` in seconds since 1970."""
    show_before = claims.pop("show_before")
    stamp = timestamp_pb2.Timestamp(seconds=int(show_before), nanos=int(show_before % 1 * 1e9))
    given = {"lease_id": secrets.token_bytes(16), "tenant": "default", "count": 1, **claims}
    body = placement_pb2.LeaseClaims(show_before=stamp, **given).SerializeToString()
    return placement_pb2.SignedLease(claims=body, signature=key.sign(body), key_id=key_id).SerializeToString()


def opened_lease(token: bytes) -> tuple[placement_pb2.SignedLease, placement_pb2.LeaseClaims]:
    """What a token says."""
    signed = placement_pb2.SignedLease.FromString(token)
    return signed, placement_pb2.LeaseClaims.FromString(signed.claims)
