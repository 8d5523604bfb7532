"""A client's journal on disk: what its episodes have been through, so that another process can go on with them.

Records are appended as things happen and can be read up to wherever a crash tore the file. The file belongs to one
client at a time: a lock beside it says so, and each opening raises the owner number that is in the high half of every
epoch, on disk before the first command under it.

Where it can no longer be written (a full disk), the episodes go on without it, and an error in the log says so once:
the file keeps what it had.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any

from envmesh import values
from envmesh.errors import InvalidRequest

__all__ = ["EpisodeLog", "JournalFile", "Unfinished"]

log = logging.getLogger("envmesh.client")

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


class JournalFile:
    """The journal at ``path``, opened for this client. ``owner`` counts the clients that had it, ``unfinished`` are the
    episodes to go on with, ``done`` the numbers of those that are over, by run; ``failed`` says that it could not be
    written any more.

    Raises:
        InvalidRequest: another client has it open, the file is something else, or it cannot be written there.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.failed = False
        self._opened = False
        self.owner = 0
        self.client_id = secrets.token_bytes(16)
        self.unfinished: dict[int, Unfinished] = {}
        self.done: dict[str, set[int]] = {}
        self._next_key = 1
        try:
            self._lock = self._take_lock()
            try:
                self._read()
                self.owner += 1
                self._rewrite()
                self._opened = True
            except BaseException:
                self._lock.close()
                raise
        except OSError as error:
            raise InvalidRequest(f"no journal can be kept at {self.path}: {error}") from error

    # ---- writing

    def begin(self, beginning: dict[str, Any]) -> EpisodeLog:
        """An episode begins."""
        key = self._next_key
        self._next_key += 1
        self._append(BEGIN, key, json.dumps(beginning).encode())
        return EpisodeLog(self, key, str(beginning.get("run", "")), int(beginning.get("number", -1)))

    def log_of(self, unfinished: Unfinished) -> EpisodeLog:
        """To go on with an episode."""
        self.unfinished.pop(unfinished.key, None)
        beginning = unfinished.beginning
        return EpisodeLog(self, unfinished.key, beginning.get("run", ""), beginning.get("number", -1))

    def close(self) -> None:
        """Give the file back."""
        self._file.close()
        self._lock.close()

    def _append(self, kind: int, key: int, body: bytes) -> None:
        if self.failed or self._file.closed:
            return
        try:
            self._write(kind, key, body)
        except OSError as error:
            if not self._opened:
                raise
            self.failed = True  # and what is torn now stays the end, so that all before it can be read
            log.error("the journal %s cannot be written any more (%s): the episodes go on, but another process could "
                      "take them up only as they were now", self.path, error)  # fmt: skip

    def _write(self, kind: int, key: int, body: bytes) -> None:
        data = memoryview(_HEAD.pack(len(body), zlib.crc32(body), kind, key) + body)
        while data:
            data = data[self._file.write(data) :]

    # ---- reading

    def _take_lock(self) -> Any:
        lock = open(f"{self.path}.lock", "w")  # noqa: SIM115, PTH123 - open as long as the client
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise InvalidRequest(
                f"the journal {self.path} is in use by another client; one at a time", reason="TAKEN_OVER"
            ) from None
        return lock

    def _read(self) -> None:
        if not self.path.exists() or not self.path.stat().st_size:
            return
        data = self.path.read_bytes()
        if not data.startswith(MAGIC):
            raise InvalidRequest(
                f"{self.path} is no journal of envmesh; name another file", reason="MALFORMED"
            )
        at = len(MAGIC)
        while at + _HEAD.size <= len(data):
            size, checksum, kind, key = _HEAD.unpack_from(data, at)
            body = data[at + _HEAD.size : at + _HEAD.size + size]
            if len(body) < size or size > _MOST_BODY_BYTES or zlib.crc32(body) != checksum:
                break  # torn by the crash: what came before counts
            at += _HEAD.size + size
            try:
                self._apply(kind, key, body)
            except (ValueError, KeyError, struct.error) as error:
                raise InvalidRequest(
                    f"{self.path} is damaged at byte {at}: {error}", reason="MALFORMED"
                ) from None
        self.unfinished = {key: each for key, each in self.unfinished.items() if each.rows}

    def _apply(self, kind: int, key: int, body: bytes) -> None:
        self._next_key = max(self._next_key, key + 1)
        if kind == OWNER:
            self.owner, self.client_id = int.from_bytes(body[:4], "little"), body[4:20]
            return
        if kind == BEGIN:
            self.unfinished[key] = Unfinished(key, json.loads(body))
            return
        episode = self.unfinished.get(key)
        if kind == DONE:
            said = json.loads(body)
            self.unfinished.pop(key, None)
            if said["run"]:
                self.done.setdefault(said["run"], set()).update(said["numbers"])
        elif episode is None:
            return
        elif kind == OUTCOME:
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

    def _rewrite(self) -> None:
        """The file anew, with what is still needed; the new owner is on disk before anything else happens."""
        temporary = self.path.with_name(self.path.name + ".new")
        self._file: Any = open(temporary, "wb", buffering=0)  # noqa: SIM115, PTH123 - open as long as the client
        try:
            self._write_what_is_needed()
            os.fsync(self._file.fileno())
            temporary.replace(self.path)
        except BaseException:
            self._file.close()
            temporary.unlink(missing_ok=True)
            raise

    def _write_what_is_needed(self) -> None:
        self._file.write(MAGIC)
        self._append(OWNER, 0, self.owner.to_bytes(4, "little") + self.client_id)
        for run, numbers in self.done.items():
            self._append(DONE, 0, json.dumps({"run": run, "numbers": sorted(numbers)}).encode())
        for key, episode in self.unfinished.items():
            self._append(BEGIN, key, json.dumps(episode.beginning).encode())
            episode_log = EpisodeLog(self, key, "", -1)
            for index, row in enumerate(episode.rows):
                if index:
                    episode_log.act(episode.actions[index - 1])
                episode_log.outcome(row)
            if len(episode.actions) >= len(episode.rows):
                episode_log.act(episode.actions[-1])
            for step, annotation in episode.annotations.items():
                episode_log.annotate(step, annotation)
            if episode.checkpoint:
                episode_log.checkpoint(episode.checkpoint)
            episode_log.place(*episode.host)
            if episode.ended is not None:
                episode_log.end(episode.ended)


class EpisodeLog:
    """What one episode writes into its client's journal."""

    __slots__ = ("_file", "_key", "_number", "_run")

    def __init__(self, file: JournalFile, key: int, run: str, number: int):
        self._file = file
        self._key = key
        self._run = run
        self._number = number

    def outcome(self, row: OutcomeRow) -> None:
        """A reset or step led to this."""
        payload, reward, flags, digest, info = row
        self._file._append(OUTCOME, self._key, _ROW.pack(reward, flags, digest, len(info)) + info + payload)

    def act(self, action: bytes) -> None:
        """This is about to be sent."""
        self._file._append(ACT, self._key, action)

    def annotate(self, step: int, annotation: Any) -> None:
        """The annotation of the action at a step. One that has no form on the wire is not kept here."""
        try:
            packed = values.encode(annotation)
        except (TypeError, ValueError):
            return
        self._file._append(ANNOTATION, self._key, _STEP.pack(step) + packed)

    def checkpoint(self, sealed: bytes) -> None:
        """The state at some step."""
        self._file._append(CHECKPOINT, self._key, sealed)

    def place(self, address: str, host_id: str, metadata: Iterable[tuple[str, str]] = ()) -> None:
        """Where its copy lives, and what a gateway needs to find it."""
        self._file._append(PLACE, self._key, json.dumps([address, host_id, *metadata]).encode())

    def end(self, how: dict[str, Any]) -> None:
        """It is over; somebody has yet to take it."""
        self._file._append(END, self._key, json.dumps(how).encode())

    def forget(self) -> None:
        """It is played again, as another."""
        self._is_over("", [])

    def done(self) -> None:
        """Nobody needs it any more."""
        self._is_over(self._run, [self._number] if self._number >= 0 else [])

    def _is_over(self, run: str, numbers: list[int]) -> None:
        self._file._append(DONE, self._key, json.dumps({"run": run, "numbers": numbers}).encode())
