"""Frames of one row, spelled and read by hand (pure).

A lone step waits for every microsecond of its two frames, and what costs most of them is no work: protobuf makes an
object for each column that is looked at. These frames are a dozen bytes around a payload, so they are made and read
here as they travel. Only the plainest are read: for all others the readers say None, and protobuf has the word.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import TYPE_CHECKING, TypeAlias

from envmesh.v1 import environment_pb2 as pb
from envmesh.wire import MalformedValue, read_varint, section, varint

if TYPE_CHECKING:
    from envmesh.outcome import OutcomeRow

__all__ = ["Outcome", "read_outcome", "read_step", "spell_command", "spell_event"]

Outcome: TypeAlias = tuple[int, bytes, float, int, int, bytes]
"""Index, payload, reward, flags, digest, info."""

STEP, OUTCOME = pb.COMMAND_KIND_STEP, pb.EVENT_KIND_OUTCOME
LARGEST_NUMBER = 0xFFFFFFFF

_HANDLES, _INDICES, _PAYLOADS, _REWARDS, _FLAGS, _DIGESTS, _INFOS, _TAKEN = (
    b"\x0a\x12\x1a\x22\x2a\x32\x42\x58"
)
"""The tags of the columns: their field numbers and wire types. Those of kinds are only spelled."""

_reward, _digest = Struct("<BBd"), Struct("<BBQ")
"""Tag, size and value of a column of one double or fixed64."""


def _spell_packed(number: int) -> bytes:
    spelled = varint(number)
    return bytes((len(spelled),)) + spelled


_PACKED = tuple(_spell_packed(number) for number in range(2048))


def _packed(number: int) -> bytes:
    """A packed column with this one number in it, without its tag."""
    return _PACKED[number] if number < 2048 else _spell_packed(number)


def spell_command(handle: int, index: int, kind: int, payload: bytes) -> bytes:
    """A ``StreamRequest`` with this one command."""
    kinds = b"" if kind == STEP else b"\x22" + _packed(kind)
    head = b"\x0a%b\x12%b\x1a%b" % (_packed(handle), _packed(index), varint(len(payload)))
    return b"".join((head, payload, kinds))


def spell_event(handle: int, index: int, kind: int, event: OutcomeRow, taken: int) -> bytes:
    """A ``StreamResponse`` with this one event."""
    payload, reward, flags, digest, info = event
    rest = _reward.pack(_REWARDS, 8, reward) if reward else b""
    if flags:
        rest += b"\x2a" + _packed(flags)
    if digest:
        rest += _digest.pack(_DIGESTS, 8, digest)
    if kind != OUTCOME:
        rest += b"\x3a" + _packed(kind)
    if info:
        rest += b"\x42%b%b" % (varint(len(info)), info)
    if taken:
        rest += b"\x58" + varint(taken)
    head = b"\x0a%b\x12%b\x1a%b" % (_packed(handle), _packed(index), varint(len(payload)))
    return b"".join((head, payload, rest))  # a large payload is copied once


def _begin(data: bytes) -> tuple[int, int, bytes, int] | None:
    """Handle, index and payload of the one row of a frame, and the place after them; None where there is not just one,
    or it is not spelled as all spell it.

    Raises:
        IndexError, MalformedValue: protobuf must say what is wrong.
    """
    if data[0] != _HANDLES:
        return None
    handle, at = read_varint(data, 2)
    if at != 2 + data[1] or data[at] != _INDICES:
        return None
    index, end = read_varint(data, at + 2)
    if end != at + 2 + data[at + 1] or data[end] != _PAYLOADS:
        return None
    start, at = section(data, end + 1, len(data))
    if handle > LARGEST_NUMBER or index > LARGEST_NUMBER:
        return None
    return handle, index, data[start:at], at


def read_step(data: bytes) -> tuple[int, int, bytes] | None:
    """Handle, index and payload of the step that is all there is in a ``StreamRequest``; None where it is anything
    else, or where protobuf must say what it is."""
    try:
        begun = _begin(data)
    except (IndexError, MalformedValue):
        return None
    if begun is None or begun[3] != len(data):
        return None
    return begun[:3]


def read_outcome(data: bytes) -> tuple[int, Outcome, int] | None:
    """The handle and the outcome that is all there is in a ``StreamResponse``, and how many frames it says were taken
    up; None where it is anything else, or where protobuf must say what it is."""
    reward, flags, digest, info = 0.0, 0, 0, b""
    try:
        begun = _begin(data)
        if begun is None:
            return None
        handle, index, payload, at = begun
        tag, size = data[at], data[at + 1]
        if tag == _REWARDS and size == 8:
            reward = _reward.unpack_from(data, at)[2]
            at += 10
            tag, size = data[at], data[at + 1]
        if tag == _FLAGS and size == 1:
            flags = data[at + 2]
            at += 3
            tag, size = data[at], data[at + 1]
        if tag == _DIGESTS and size == 8:
            digest = _digest.unpack_from(data, at)[2]
            at += 10
            tag, size = data[at], data[at + 1]
        if tag == _INFOS:
            start, at = section(data, at + 1, len(data))
            info = data[start:at]
            tag = data[at]
        taken, at = read_varint(data, at + 1)
    except (IndexError, MalformedValue, StructError):
        return None
    if tag != _TAKEN or at != len(data) or taken > LARGEST_NUMBER or flags > 0x7F:
        return None
    return handle, (index, payload, reward, flags, digest, info), taken
