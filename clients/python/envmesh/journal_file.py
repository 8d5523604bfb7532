"""A client's journal on disk: what its episodes have been through, so that another process can go on with them.

The file belongs to one client at a time: a lock beside it says so, and each opening raises the owner number that is in
the high half of every epoch, on disk before the first command under it. Once most of it is about episodes that are
over, it is written anew without them, in a thread, while the episodes go on.

Where it can no longer be written (a full disk), the episodes go on without it, and an error in the log says so once:
the file keeps what it had.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import secrets
import shutil
import struct
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from envmesh.errors import InvalidRequest
from envmesh.journal_records import (
    ACT,
    ANNOTATION,
    BEGIN,
    CHECKPOINT,
    DONE,
    END,
    MAGIC,
    OUTCOME,
    PLACE,
    Contents,
    OutcomeRow,
    Unfinished,
    annotation_body,
    needed,
    outcome_body,
    owner_body,
    record,
    records,
)

__all__ = ["EpisodeLog", "JournalFile"]

log = logging.getLogger("envmesh.client")

REWRITE_BYTES = 256 << 20
"""A journal that has twice the bytes it had when it was last written anew, and at least so many, is written anew."""

_COPIED_BYTES = 1 << 20


class JournalFile:
    """The journal at ``path``, opened for this client. ``owner`` counts the clients that had it, ``unfinished`` are the
    episodes to go on with, ``done`` the numbers of those that are over, by run; ``failed`` says that it could not be
    written any more.

    Raises:
        InvalidRequest: another client has it open, the file is something else, or it cannot be written there.
    """

    def __init__(self, path: str | Path, rewrite_bytes: int = REWRITE_BYTES):
        self.path = Path(path).absolute()  # it stays that file, wherever the program goes
        self.failed = False
        self._rewrite_bytes = rewrite_bytes
        self._rewriting: _Rewriting | None = None
        self._of_runs: dict[str, set[int]] = {}
        self._left_runs: list[str] = []
        try:
            self._lock = self._take_lock()
            try:
                contents = self._read()
                self.owner = contents.owner + 1
                self.client_id = contents.client_id or secrets.token_bytes(16)
                self.unfinished = {key: each for key, each in contents.unfinished.items() if each.rows}
                self.done = contents.done
                self._next_key = contents.next_key
                dropped = contents.unfinished.keys() - self.unfinished.keys()
                first = _Rewriting(self.path, self._size(), self._owner_body(), dropped)
                first.run()
                self._file = first.taken()
                self._kept = self._written = self._size()
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
        self.append(BEGIN, key, json.dumps(beginning).encode())
        return self._log(key, beginning)

    def log_of(self, unfinished: Unfinished) -> EpisodeLog:
        """To go on with an episode."""
        self.unfinished.pop(unfinished.key, None)
        return self._log(unfinished.key, unfinished.beginning)

    def _log(self, key: int, beginning: Mapping[str, Any]) -> EpisodeLog:
        run = str(beginning.get("run", ""))
        self._of_runs.setdefault(run, set()).add(key)
        return EpisodeLog(self, key, run, int(beginning.get("number", -1)))

    def over(self, key: int, run: str, numbers: list[int]) -> None:
        """An episode is no longer to be gone on with; ``numbers`` of its run are done."""
        self._of_runs.get(run, set()).discard(key)
        self.append(DONE, key, json.dumps({"run": run if numbers else "", "numbers": numbers}).encode())

    def leave_run(self, run: str) -> None:
        """Whoever iterated over a run has left it early. After a crash it could still be gone on with, until the same
        client begins the next one of its environment: what every iteration leaves would add up for ever."""
        if self._of_runs.get(run):
            self._left_runs.append(run)
        else:
            self._of_runs.pop(run, None)

    def begin_run(self, environment: str) -> None:
        """Another run of an environment begins."""
        over = [run for run in self._left_runs if run.rpartition("#")[0] == environment]
        self._left_runs = [run for run in self._left_runs if run not in over]
        for run in over:
            for key in sorted(self._of_runs.pop(run)):
                self.over(key, run, [])

    def close(self) -> None:
        """Give the file back."""
        if self._rewriting is not None:
            self._rewriting.abandon()
            self._rewriting = None
        self._file.close()
        self._lock.close()

    def append(self, kind: int, key: int, body: bytes) -> None:
        """One record more."""
        if self.failed or self._file.closed:
            return
        try:
            data = memoryview(record(kind, key, body))
            self._written += len(data)
            while data:
                data = data[self._file.write(data) :]
            if self._written >= max(self._rewrite_bytes, 2 * self._kept):
                self._write_anew()
        except OSError as error:
            self.failed = True  # and what is torn now stays the end, so that all before it can be read
            log.error("the journal %s cannot be written any more (%s): the episodes go on, but another process could "
                      "take them up only as they were now", self.path, error)  # fmt: skip

    # ---- writing it anew

    def _write_anew(self) -> None:
        """Begin to, or take the new file if it is there."""
        if self._rewriting is None:
            self._rewriting = _Rewriting(self.path, self._written, self._owner_body())
            self._rewriting.start()
        elif self._rewriting.over:
            rewriting, self._rewriting = self._rewriting, None
            problem = rewriting.problem
            if problem is None:
                try:
                    before, self._file = self._file, rewriting.taken()
                    before.close()
                    self._written = self._size()
                except OSError as error:
                    problem = error
            if problem is not None:
                log.warning(
                    "the journal %s goes on growing: it cannot be written anew: %s", self.path, problem
                )
            self._kept = self._written

    def _owner_body(self) -> bytes:
        return owner_body(self.owner, self.client_id)

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

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

    def _read(self) -> Contents:
        contents = Contents()
        data = memoryview(self.path.read_bytes() if self._size() else b"")
        if data and data[: len(MAGIC)] != MAGIC:
            raise InvalidRequest(
                f"{self.path} is no journal of envmesh; name another file", reason="MALFORMED"
            )
        for at, kind, key, body in records(data):
            try:
                contents.apply(kind, key, bytes(body))
            except (ValueError, KeyError, struct.error) as error:
                raise InvalidRequest(
                    f"{self.path} is damaged at byte {at}: {error}", reason="MALFORMED"
                ) from None
        return contents


class _Rewriting:
    """Writes what is still needed of the first ``size`` bytes of a journal beside it. ``over`` says that this is done,
    or that there is a ``problem``."""

    def __init__(self, path: Path, size: int, owner: bytes, dropped: Iterable[int] = ()):
        self._path = path
        self._size = size
        self._owner = owner
        self._dropped = dropped
        self._beside = path.with_name(path.name + ".new")
        self._abandoned = False
        self._thread = threading.Thread(target=self._try, name="envmesh-journal", daemon=True)
        self.over = False
        self.problem: BaseException | None = None

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def run(self) -> None:
        """Do it. Raises: OSError where it cannot be written; then nothing is left of it."""
        try:
            with self._beside.open("wb", buffering=_COPIED_BYTES) as file:
                for part in needed(self._mapped(), self._owner, self._dropped):
                    if self._abandoned:
                        raise InterruptedError("the client was closed")
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            self._beside.unlink(missing_ok=True)
            raise

    def taken(self) -> Any:
        """Add what has come since, and put the new file in the old one's place. Returns it, to be appended to."""
        file = self._beside.open("ab", buffering=0)
        try:
            if self._size:
                with self._path.open("rb") as before:
                    before.seek(self._size)
                    shutil.copyfileobj(before, file, _COPIED_BYTES)
            self._beside.replace(self._path)
        except BaseException:
            file.close()
            self._beside.unlink(missing_ok=True)
            raise
        return file

    def abandon(self) -> None:
        """Nobody wants it any more."""
        self._abandoned = True
        self._thread.join()
        self._beside.unlink(missing_ok=True)

    def _mapped(self) -> memoryview:
        if not self._size:
            return memoryview(b"")
        with self._path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ))

    def _try(self) -> None:
        try:
            self.run()
        except BaseException as error:  # whatever it was: there is no new file to take the old one's place
            self.problem = error
        finally:
            self.over = True


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
        self._file.append(OUTCOME, self._key, outcome_body(row))

    def act(self, action: bytes) -> None:
        """This is about to be sent."""
        self._file.append(ACT, self._key, action)

    def annotate(self, step: int, annotation: Any) -> None:
        """The annotation of the action at a step. One that has no form on the wire is not kept here."""
        try:
            body = annotation_body(step, annotation)
        except (TypeError, ValueError):
            return
        self._file.append(ANNOTATION, self._key, body)

    def checkpoint(self, sealed: bytes) -> None:
        """The state at some step."""
        self._file.append(CHECKPOINT, self._key, sealed)

    def place(self, address: str, host_id: str, metadata: Iterable[tuple[str, str]] = ()) -> None:
        """Where its copy lives, and what a gateway needs to find it."""
        self._file.append(PLACE, self._key, json.dumps([address, host_id, *metadata]).encode())

    def end(self, how: dict[str, Any]) -> None:
        """It is over; somebody has yet to take it."""
        self._file.append(END, self._key, json.dumps(how).encode())

    def forget(self) -> None:
        """It is played again, as another."""
        self._file.over(self._key, self._run, [])

    def done(self) -> None:
        """Nobody needs it any more."""
        self._file.over(self._key, self._run, [self._number] if self._number >= 0 else [])
