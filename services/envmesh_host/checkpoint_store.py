"""Large checkpoints, kept outside the client: any place that fsspec can write to.

A reference is told to nobody before what it names is written in full. Nothing is ever unpickled: what comes back is
compared with its seal before the environment gets any of it. Names are made here, and only names of that form are read
or deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec

from envmesh.errors import Refusal

__all__ = ["CheckpointStore"]

log = logging.getLogger("envmesh.host")

THREADS = 4
FULL_BYTES = 64 << 20
"""With so much on its way nothing more is asked for."""

MOST_UNWRITTEN_BYTES = 1 << 30
"""Beyond this, what should be stored is not: the episode goes on with a longer journal."""

MOST_READ_BYTES = 1 << 30

_USER = re.compile(r"(?<=://)[^/?#]*@")
"""User and password in a URL, or in each of several that are chained."""

_NAME = re.compile(r"[0-9a-f]{16}/[0-9a-f]{32}-[0-9]{1,10}-[0-9a-f]{16}")


class CheckpointStore:
    """A directory of checkpoints at ``url``. ``inline_bytes``: smaller ones travel to the client instead.

    Raises:
        ValueError: fsspec knows no such place, or cannot reach it; the message says what is missing.
    """

    def __init__(self, url: str, *, inline_bytes: int = 64 * 1024, lifetime: float = 86400.0):
        self._secrets = _USER.findall(url)
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except Exception as error:  # each kind of place has its own
            raise ValueError(
                f"the checkpoint store {self._said(url)!r} (ENVMESH_HOST_CHECKPOINT_STORE) cannot be used: "
                f"{self._said(error)}"
            ) from None
        self.url = self._said(url)
        self.inline_bytes = inline_bytes
        self.lifetime = lifetime
        self.written = self.written_bytes = self.failed = 0
        self._unwritten = 0
        self.on_room: Callable[[], None] = lambda: None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="envmesh-checkpoints")

    @property
    def has_room(self) -> bool:
        """Whether another checkpoint may be taken for it; ``on_room`` hears when that may have changed."""
        return self._unwritten < FULL_BYTES

    @staticmethod
    def is_of(reference: str, episode_id: bytes) -> bool:
        """Whether a checkpoint is of this very episode."""
        return reference.partition("/")[2].startswith(f"{episode_id.hex()}-")

    @staticmethod
    def name(tenant: str, episode_id: bytes, index: int) -> str:
        """A new name for a checkpoint. It cannot be guessed, and says whose it is only to who knows already."""
        return f"{_owner(tenant)}/{episode_id.hex()}-{index}-{secrets.token_hex(8)}"

    def check(self, reference: str, tenant: str) -> None:
        """Refuse a reference that was not made here, or for another tenant. Raises: Refusal MALFORMED, NOT_YOURS."""
        if not _NAME.fullmatch(reference):
            raise Refusal(f"{reference[:80]!r} is no reference to a checkpoint", reason="MALFORMED")
        if reference.partition("/")[0] != _owner(tenant):
            raise Refusal("the checkpoint is another tenant's", reason="NOT_YOURS")

    def write(self, name: str, data: bytes, then: Callable[[str | None], None]) -> None:
        """Write a checkpoint; ``then`` hears its reference once it is safe, or None where that failed."""
        if self._unwritten + len(data) > MOST_UNWRITTEN_BYTES:
            log.warning("%d bytes of checkpoints wait for the store: this one is left out", self._unwritten)
            self.failed += 1
            asyncio.get_running_loop().call_soon(then, None)
            return
        self._unwritten += len(data)

        def written(future: asyncio.Future[None]) -> None:
            self._unwritten -= len(data)
            asyncio.get_running_loop().call_soon(self.on_room)
            error = future.exception() if not future.cancelled() else asyncio.CancelledError()
            if error is not None:
                self.failed += 1
                log.warning("the checkpoint store %s cannot be written: %s", self.url, self._said(error))
                then(None)
                return
            self.written += 1
            self.written_bytes += len(data)
            then(name)

        self._run(lambda: self._write(name, data), written)

    def read(self, reference: str, then: Callable[[bytes | Refusal], None]) -> None:
        """Read a checkpoint; ``then`` hears its bytes, or why there are none."""

        def done(future: asyncio.Future[bytes]) -> None:
            error = future.exception() if not future.cancelled() else asyncio.CancelledError()
            if error is None:
                then(future.result())
            elif isinstance(error, FileNotFoundError):
                gone = "the checkpoint is not in the store any more: its lifetime is over, or its episode was closed"
                then(Refusal(gone, reason="REPLAY_DIVERGED"))
            else:
                unread = f"the checkpoint store cannot be read: {self._said(error)}"
                then(Refusal(unread, reason="NO_CAPACITY", retry_after=1.0))

        self._run(lambda: self._read(reference), done)

    def delete(self, references: Sequence[str]) -> None:
        """These are not needed any more."""
        if references:
            self._run(lambda: self._delete(references), self._ignore)

    def sweep(self, wall: float) -> None:
        """Delete what is older than its lifetime."""
        self._run(lambda: self._sweep(wall), self._ignore)

    def close(self) -> None:
        """End the threads; what is being written is written to its end."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _said(self, what: object) -> str:
        """A text, such as an error's, without the user and password that the URL may have."""
        text = str(what)
        for secret in self._secrets:
            text = text.replace(secret, "***@")
        return text

    def _ignore(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            log.warning("the checkpoint store: %s", self._said(error))

    # ---- in the threads

    def _run(self, work: Callable[[], Any], done: Callable[[asyncio.Future[Any]], None]) -> None:
        asyncio.get_running_loop().run_in_executor(self._threads, work).add_done_callback(done)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(path, data)

    def _read(self, name: str) -> bytes:
        data: bytes = self._files.cat_file(self._path(name), end=MOST_READ_BYTES)
        return data

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("a checkpoint cannot be deleted: %s", self._said(error))

    def _sweep(self, wall: float) -> None:
        for path, details in self._files.find(self._root, detail=True).items():
            name = "/".join(path.rsplit("/", 2)[-2:])
            if not _NAME.fullmatch(name) or path != self._path(name):
                continue  # somebody else's
            modified = details.get("mtime") or details.get("LastModified") or details.get("created")
            seconds = modified.timestamp() if hasattr(modified, "timestamp") else modified
            if isinstance(seconds, int | float) and wall - seconds > self.lifetime:
                self._delete((name,))


def _owner(tenant: str) -> str:
    return hashlib.sha256(tenant.encode()).hexdigest()[:16]
