"""Frames of one row, spelled and read by hand (pure).

A lone step waits for every microsecond of its two frames, and what costs most of them is no work: protobuf makes an
object for each column that is looked at. These frames are a dozen bytes around a payload, so they are made and read
here as they travel. Only the plainest are read: for all others the readers say None, and protobuf has the word.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import TypeAlias

from envmesh.v1 import environment_pb2 as pb
from envmesh.wire import varint

__all__ = ["Event", "Outcome", "read_outcome", "read_step", "spell_command", "spell_event"]

Outcome: TypeAlias = tuple[int, bytes, float, int, int, bytes]
"""Index, payload, reward, flags, digest, info."""

Event: TypeAlias = tuple[bytes, float, int, int, bytes]
"""Payload, reward, flags, digest, info."""

STEP, OUTCOME = pb.COMMAND_KIND_STEP, pb.EVENT_KIND_OUTCOME
LONGEST_NUMBER = 5
"""The bytes of a varint of 32 bits."""

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


def spell_event(handle: int, index: int, kind: int, event: Event, taken: int) -> bytes:
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


def _number(data: bytes, start: int, end: int) -> int:
    """The one varint of 32 bits that fills this part; -1 where it is not one."""
    number = shift = 0
    for at in range(start, end - 1):
        if data[at] < 0x80:
            return -1
        number |= (data[at] & 0x7F) << shift
        shift += 7
    number |= data[end - 1] << shift
    return -1 if data[end - 1] > 0x7F or number > 0xFFFFFFFF else number


def _size(data: bytes, at: int) -> tuple[int, int]:
    """The length that is announced at a place, and the place after it."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    end = at + 1
    while data[end] > 0x7F and end - at < LONGEST_NUMBER:
        end += 1
    return _number(data, at, end + 1), end + 1


def _begin(data: bytes) -> tuple[int, int, bytes, int] | None:
    """Handle, index and payload of the one row of a frame, and the place after them; None where there is not just one,
    or it is not spelled as all spell it. Raises: IndexError."""
    size = data[1]
    if data[0] != _HANDLES or not 0 < size <= LONGEST_NUMBER:
        return None
    at = 2 + size
    handle = data[2] if size == 1 and data[2] < 0x80 else _number(data, 2, at)
    size = data[at + 1]
    if data[at] != _INDICES or not 0 < size <= LONGEST_NUMBER:
        return None
    start, at = at + 2, at + 2 + size
    index = data[start] if size == 1 and data[start] < 0x80 else _number(data, start, at)
    if data[at] != _PAYLOADS or handle < 0 or index < 0:
        return None
    size, start = _size(data, at + 1)
    at = start + size
    if size < 0 or at > len(data):
        return None
    return handle, index, data[start:at], at


def read_step(data: bytes) -> tuple[int, int, bytes] | None:
    """Handle, index and payload of the step that is all there is in a ``StreamRequest``; None where it is anything
    else, or where protobuf must say what it is."""
    try:
        begun = _begin(data)
    except IndexError:
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
            size, start = _size(data, at + 1)
            at = start + size
            info = data[start:at]
            tag = data[at]
        taken, at = _size(data, at + 1)
    except (IndexError, StructError):
        return None
    if tag != _TAKEN or at != len(data) or size < 0 or taken < 0 or flags > 0x7F:
        return None
    return handle, (index, payload, reward, flags, digest, info), taken
