"""What a host and its worker processes say to each other: frames of columns over a socket pair.

A request is a ``StreamRequest`` behind its length. Its handles are the seats of the worker, from 1; ``timeouts`` are
the limits of running time, in milliseconds, where the worker keeps them itself. The first request is no command: its
payload is the ``EnvironmentInfo`` that is served, or empty where the worker is to find out.

A response is a ``StreamResponse`` behind its number of rows, its length, and the environment's running time of each
row in seconds (float32). Where ``kinds`` is there, ``indices`` holds the kinds of the commands that are answered.
Nothing is pickled: whatever bytes a broken worker writes, the host reads columns or a ``ValueError``.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from envmesh.errors import Refusal, from_status
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.served import Row

__all__ = ["FrameReader", "Replies", "refusal_of", "request_frame", "response_of"]

FAILURE, OUTCOME, CLOSED = pb.EVENT_KIND_FAILURE, pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_CLOSED
CLOSE = pb.COMMAND_KIND_CLOSE

REQUEST_HEAD = struct.Struct("<I")
RESPONSE_HEAD = struct.Struct("<II")
FLUSH_BYTES = 256 * 1024
"""A worker writes when it holds this much."""

MOST_BYTES = 1 << 31
"""No frame is longer; a greater length is garbage."""


def request_frame(request: pb.StreamRequest) -> bytes:
    """One request as bytes."""
    body = request.SerializeToString()
    return REQUEST_HEAD.pack(len(body)) + body


def response_of(frame: bytes) -> tuple[pb.StreamResponse, array[float]]:
    """A response and the running times of its rows.

    Raises:
        ValueError: it is no response.
    """
    rows, length = RESPONSE_HEAD.unpack_from(frame)
    seconds = array("f", frame[RESPONSE_HEAD.size : RESPONSE_HEAD.size + 4 * rows])
    try:
        response = pb.StreamResponse.FromString(frame[RESPONSE_HEAD.size + 4 * rows :])
    except DecodeError as error:
        raise ValueError(f"{length} bytes that are no response: {error}") from None
    columns = (
        response.payloads,
        response.rewards,
        response.flags,
        response.digests,
        response.kinds,
        response.infos,
    )
    if len(response.handles) != rows or any(len(column) not in (0, rows) for column in columns):
        raise ValueError("the columns of a response differ in length")
    if len(response.kinds) != len(response.indices):
        raise ValueError("a response has kinds and does not say what they answer")
    return response, seconds


def refusal_of(payload: bytes) -> Refusal:
    """The refusal that a FAILURE row bears.

    Raises:
        ValueError: the payload is no status.
    """
    try:
        error = from_status(status_pb2.Status.FromString(payload))
    except DecodeError as problem:
        raise ValueError(f"a failure without a status: {problem}") from None
    return Refusal(
        Exception.__str__(error), reason=error.reason, detail=error.detail, retry_after=error.retry_after
    )


class FrameReader:
    """Cuts a stream of bytes into frames. ``response`` says which side's head to expect."""

    __slots__ = ("_buffer", "_head", "_needed", "_response")

    def __init__(self, *, response: bool):
        self._response = response
        self._head = RESPONSE_HEAD if response else REQUEST_HEAD
        self._buffer = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete with this data; a response with its head, a request without.

        Raises:
            ValueError: a length that no frame has.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        position, end = 0, len(data)
        head, response = self._head, self._response
        while end - position >= head.size:
            if response:
                rows, length = head.unpack_from(data, position)
                size = head.size + 4 * rows + length
                begin = position
            else:
                (length,) = head.unpack_from(data, position)
                size = head.size + length
                begin = position + head.size
            if size > MOST_BYTES:
                raise ValueError(f"a frame of {size} bytes")
            if end - position < size:
                self._needed = size
                break
            yield data[begin : position + size]
            position += size
        else:
            self._needed = head.size
        if position < end:
            self._buffer += data[position:]


class Replies:
    """A worker's answers on their way out, as columns. ``most_bytes`` bounds one outcome's payload and info."""

    __slots__ = (
        "_digests",
        "_flags",
        "_handles",
        "_infos",
        "_kinds",
        "_commands",
        "_most_bytes",
        "_payloads",
        "_rewards",
        "_seconds",
        "_special",
        "_wide",
        "size",
    )

    def __init__(self, most_bytes: int):
        self._most_bytes = most_bytes
        self._clear()

    def _clear(self) -> None:
        self._handles: list[int] = []
        self._payloads: list[bytes] = []
        self._rewards: list[float] = []
        self._flags: list[int] = []
        self._digests: list[int] = []
        self._infos: list[bytes] = []
        self._kinds: list[Any] = []
        self._commands: list[int] = []
        self._seconds: list[float] = []
        self._special = False
        self._wide = False
        self.size = 0

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: int, command: int, result: Row | Refusal, seconds: float) -> None:
        """Take an answer along."""
        if not isinstance(result, Refusal):
            size = len(result[0]) + len(result[4])
            if size > self._most_bytes:
                message = f"the outcome has {size:,} bytes; the bound is {self._most_bytes:,}"
                result = Refusal(message, reason="MESSAGE_TOO_LARGE")
        if isinstance(result, Refusal):
            result, kind = (result.to_status().SerializeToString(), 0.0, 0, 0, b""), FAILURE
            self._special = True
        elif command == CLOSE:
            kind, self._special = CLOSED, True
        else:
            kind = OUTCOME
        payload, reward, flags, digest, info = result
        if info or flags or reward:
            self._wide = True
        self.size += len(payload) + len(info)
        self._handles.append(handle)
        self._payloads.append(payload)
        self._rewards.append(reward)
        self._flags.append(flags)
        self._digests.append(digest)
        self._infos.append(info)
        self._kinds.append(kind)
        self._commands.append(command)
        self._seconds.append(seconds)

    def take(self) -> bytes:
        """All of it as one frame."""
        response = pb.StreamResponse(handles=self._handles, payloads=self._payloads, digests=self._digests)
        if self._wide:
            response.rewards.extend(self._rewards)
            response.flags.extend(self._flags)
            if any(self._infos):
                response.infos.extend(self._infos)
        if self._special:
            response.kinds.extend(self._kinds)
            response.indices.extend(self._commands)
        body = response.SerializeToString()
        frame = RESPONSE_HEAD.pack(len(self._handles), len(body)) + array("f", self._seconds).tobytes() + body
        self._clear()
        return frame


def columns_of(response: pb.StreamResponse) -> Iterator[tuple[Any, ...]]:
    """The rows of a response, (handle, payload, reward, flags, digest, info); absent columns are defaults."""
    count = len(response.handles)
    return zip(
        response.handles,
        response.payloads,
        response.rewards or (0.0,) * count,
        response.flags or (0,) * count,
        response.digests,
        response.infos or (b"",) * count,
        strict=False,
    )
