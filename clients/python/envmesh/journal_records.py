"""The records of a client's journal on disk: what they say, and which of them are still needed (pure).

A record is appended as something happens; the file can be read up to wherever a crash tore it. Which episode a record
is of says its key, a number that the client gives.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from envmesh import values

__all__ = [
    "ACT",
    "ANNOTATION",
    "BEGIN",
    "CHECKPOINT",
    "DONE",
    "END",
    "MAGIC",
    "OUTCOME",
    "OWNER",
    "PLACE",
    "Contents",
    "OutcomeRow",
    "Unfinished",
    "annotation_body",
    "needed",
    "outcome_body",
    "owner_body",
    "record",
    "records",
]  # fmt: skip

MAGIC = b"envmesh-journal-1\n"
OWNER, BEGIN, OUTCOME, ACT, CHECKPOINT, PLACE, END, DONE, ANNOTATION = range(1, 10)

_HEAD = Struct("<IIBQ")  # length of the body, its CRC-32, kind, key
_ROW = Struct("<dIQI")  # reward, flags, digest, length of the info; then info and payload
_STEP = Struct("<I")  # the step that an annotation is of; then its Value
_MOST_BODY_BYTES = 1 << 30

OutcomeRow = tuple[bytes, float, int, int, bytes]


@dataclass(slots=True)
class Unfinished:
    """An episode that the last owner of a journal left, as far as it came.

    ``beginning`` says how it began (environment, episode_id, seed, task, split, options, number, run); ``rows`` and
    ``actions`` are what happened, the last action perhaps without an outcome, ``annotations`` those of actions, by
    step; ``ended`` is what its end said, where it had ended but nobody had taken it.
    """

    key: int
    beginning: dict[str, Any]
    rows: list[OutcomeRow] = field(default_factory=list)
    actions: list[bytes] = field(default_factory=list)
    annotations: dict[int, Any] = field(default_factory=dict)
    checkpoint: bytes = b""
    host: tuple[str, str, tuple[tuple[str, str], ...]] = ("", "", ())
    ended: dict[str, Any] | None = None

    @property
    def environment(self) -> str:
        """name@version."""
        return str(self.beginning["environment"])

    @property
    def episode_id(self) -> bytes:
        """16 bytes."""
        return bytes.fromhex(self.beginning["episode_id"])

    @property
    def index(self) -> int:
        """The last step whose outcome is held."""
        return len(self.rows) - 1


# ---- writing


def record(kind: int, key: int, body: bytes) -> bytes:
    """A record as it is in the file."""
    return _HEAD.pack(len(body), zlib.crc32(body), kind, key) + body


def owner_body(owner: int, client_id: bytes) -> bytes:
    """Who has the file."""
    return owner.to_bytes(4, "little") + client_id


def outcome_body(row: OutcomeRow) -> bytes:
    """What a reset or step led to."""
    payload, reward, flags, digest, info = row
    return _ROW.pack(reward, flags, digest, len(info)) + info + payload


def annotation_body(step: int, annotation: Any) -> bytes:
    """What was attached to a step. Raises: TypeError or ValueError where that has no form on the wire."""
    return _STEP.pack(step) + values.encode(annotation)


# ---- reading


def records(data: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """Where each record begins, its kind, key and body, up to where a crash tore the file."""
    at = len(MAGIC)
    while at + _HEAD.size <= len(data):
        size, checksum, kind, key = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + size]
        if len(body) < size or size > _MOST_BODY_BYTES or zlib.crc32(body) != checksum:
            return
        yield at, kind, key, body
        at += _HEAD.size + size


class Contents:
    """What a journal says: ``owner`` counts the clients that had it, ``unfinished`` are the episodes to go on with, by
    key, ``done`` the numbers of those that are over, by run."""

    def __init__(self) -> None:
        self.owner = 0
        self.client_id = b""
        self.unfinished: dict[int, Unfinished] = {}
        self.done: dict[str, set[int]] = {}
        self.next_key = 1

    def apply(self, kind: int, key: int, body: bytes) -> None:
        """One record more. Raises: ValueError, KeyError or struct.error where it is damaged."""
        self.next_key = max(self.next_key, key + 1)
        if kind == OWNER:
            self.owner, self.client_id = int.from_bytes(body[:4], "little"), body[4:20]
        elif kind == BEGIN:
            self.unfinished[key] = Unfinished(key, json.loads(body))
        elif kind == DONE:
            self.unfinished.pop(key, None)
            _add_done(self.done, body)
        elif key in self.unfinished:
            _apply(self.unfinished[key], kind, body)


def _apply(episode: Unfinished, kind: int, body: bytes) -> None:
    if kind == OUTCOME:
        reward, flags, digest, info_size = _ROW.unpack_from(body)
        info = body[_ROW.size : _ROW.size + info_size]
        episode.rows.append((body[_ROW.size + info_size :], reward, flags, digest, info))
    elif kind == ACT:
        del episode.actions[len(episode.rows) - 1 :]  # sent again
        episode.actions.append(body)
    elif kind == ANNOTATION:
        episode.annotations[_STEP.unpack_from(body)[0]] = values.decode(body[_STEP.size :])
    elif kind == CHECKPOINT:
        episode.checkpoint = body
    elif kind == PLACE:
        address, host_id, *metadata = json.loads(body)
        episode.host = (address, host_id, tuple((key, value) for key, value in metadata))
    elif kind == END:
        episode.ended = json.loads(body)


def _add_done(done: dict[str, set[int]], body: bytes) -> None:
    said = json.loads(body)
    if said["run"]:
        done.setdefault(said["run"], set()).update(said["numbers"])


# ---- what is still needed


def needed(data: memoryview, owner: bytes, dropped: Iterable[int] = ()) -> Iterator[bytes | memoryview]:
    """The same journal without the episodes that are over, without those of the keys ``dropped``, and without what is
    said anew later. ``owner`` is the body of its OWNER record."""
    over, done = set(dropped), dict[str, set[int]]()
    last: dict[tuple[int, int], int] = {}
    for at, kind, key, body in records(data):
        if kind == DONE:
            over.add(key)
            _add_done(done, bytes(body))
        elif kind in (CHECKPOINT, PLACE):
            last[kind, key] = at
    yield MAGIC
    yield record(OWNER, 0, owner)
    for run, numbers in done.items():
        yield record(DONE, 0, json.dumps({"run": run, "numbers": sorted(numbers)}).encode())
    for at, kind, key, body in records(data):
        if kind not in (OWNER, DONE) and key not in over and last.get((kind, key), at) == at:
            yield data[at : at + _HEAD.size + len(body)]
