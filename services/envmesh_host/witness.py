"""A small process beside each host of a mesh, which tells the broker how the host ended or why it is silent.

It is forked before the host serves anything (the first process of a container is the witness, and the host is forked:
``first_process`` says why), shares the host's memory as far as neither changes it, sleeps in ``poll``, and ends soon
after its host does. What it says decides whether a step that was running is under suspicion: a kill from
outside convicts nobody. It also ends a host whose loop is held by code that lets no other thread run, so that the
host's own watchdog cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import mmap
import os
import select
import signal
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

import grpc

from envmesh.links import Links
from envmesh.v1 import fleet_pb2, fleet_pb2_grpc, placement_pb2
from envmesh_host.first_process import FirstProcess, deferred, is_first
from envmesh_host.isolation.out_of_memory import OutOfMemory
from envmesh_host.settings import HostSettings
from envmesh_host.testimony import BEGAN, LIMIT, SEEN, TURNED, WORD, Testimony
from envmesh_host.verdicts import (
    STOPPED_SECONDS,
    STOPPED_STATES,
    Evidence,
    Verdict,
    fatal_line,
    judge_death,
    judge_silence,
)
from envmesh_host.watchdog import EXIT_STUCK, GRACE_SECONDS

__all__ = ["Witness", "begin"]

LOOK_SECONDS = 0.25
FATAL_SECONDS = 5.0
"""How long after faulthandler spoke the end is believed to be that of which it spoke."""
LAST_PATIENCE_SECONDS = 5.0
"""How long beyond the watchdog's grace a host that is stuck is let be."""
FROZEN_SECONDS = 1.0
"""A pause of the witness's own that long means that the machine, or both, stood still."""
WORDS_BYTES = 16 * 1024

REPORT_SECONDS = 3.0
"""For telling the broker of an end, all attempts together: clients wait no longer for a verdict."""
ATTEMPT_SECONDS = 2.0
PAUSE_SECONDS = 0.1

_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO = struct.Struct("<QQ11Ii")
_PIDFD_INFO_EXIT = 1 << 3
_PR_SET_NAME = 15
_EXIT_CODE = 49
"""Where /proc/PID/stat has it, counted from the state."""


def begin(settings: HostSettings) -> Testimony | None:
    """Fork the witness of this process; to be called before there are threads, and before gRPC is used. Returns the
    host's end; None where processes cannot be forked or watched."""
    if not hasattr(os, "pidfd_open"):
        return None
    reading, writing = os.pipe()
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    first = is_first()
    host = os.getpid()
    process = os.pidfd_open(host)
    gc.freeze()
    with warnings.catch_warnings(), deferred():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's threads, which the witness does not use
        child = os.fork()
        if (child != 0) == first:
            os.close(writing)
            if first:
                os.close(process)
                host, process = child, os.pidfd_open(child)
            _be_witness(settings, host, process, reading, memory, first=first)
    gc.unfreeze()
    os.close(reading)
    os.close(process)
    faulthandler.enable(file=writing)
    return Testimony(writing, memory)


def _be_witness(
    settings: HostSettings, host: int, process: int, reading: int, memory: mmap.mmap, *, first: bool
) -> NoReturn:
    code = 0
    above: FirstProcess | None = None
    try:
        gc.disable()
        if first:
            above = FirstProcess(host)
        else:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_NAME, b"envmesh-witness", 0, 0, 0)
        Witness(settings, host, process, reading, memory, above).run()
    except BaseException:  # nobody is above it
        sys.excepthook(*sys.exc_info())
    finally:
        if above is not None:
            code = above.exit_code()
        os._exit(code)


class Witness:
    """Watches the process ``host``, by ``process`` (a pidfd), its words and its numbers. ``above`` is what else it is
    where it is the first process of a container."""

    def __init__(
        self,
        settings: HostSettings,
        host: int,
        process: int,
        words: int,
        memory: mmap.mmap,
        above: FirstProcess | None = None,
    ):
        self._settings = settings
        self._above = above
        self._host = host
        self._process = process
        self._words = words
        self._watch = memoryview(memory).cast("d")
        self._memory = OutOfMemory()
        self._unfinished = b""
        self._fatal = b""
        self._fatal_at = 0.0
        self._host_id = ""
        self._told = self._left = False
        self._stuck = ""
        self._looked = self._awake_since = time.perf_counter()
        self._silence: Verdict | None = None
        self._stopped_at = 0.0

    def run(self) -> None:
        """Watch until the host is gone, and tell how it went."""
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        poll.register(self._words, select.POLLIN)
        os.set_blocking(self._words, False)
        while True:
            ready = {file for file, _ in poll.poll(LOOK_SECONDS * 1000)}
            if self._words in ready and not self._listen():
                poll.unregister(self._words)
            if self._process in ready:
                break
            self._look(time.perf_counter())
            if self._above is not None:
                self._above.reap()
        self._listen()
        self._bury()

    # ---- words

    def _listen(self) -> bool:
        """Take what was said. Returns whether more can come."""
        while True:
            try:
                data = os.read(self._words, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, self._unfinished = (self._unfinished + data).split(b"\n")
            self._unfinished = self._unfinished[:WORDS_BYTES]
            for line in lines:
                self._hear(line)

    def _hear(self, line: bytes) -> None:
        if not line.startswith(WORD):
            self._fatal = (self._fatal + line + b"\n")[:WORDS_BYTES]
            self._fatal_at = time.perf_counter()
            return
        word, _, rest = line[len(WORD) :].decode(errors="replace").partition(" ")
        match word:
            case "host":
                self._host_id = rest
            case "told":
                self._told = True
            case "left":
                self._left = True
            case "stuck":
                self._stuck = rest

    # ---- while it lives

    def _look(self, now: float) -> None:
        if now - self._looked > FROZEN_SECONDS:
            self._awake_since = now
        self._looked = now
        if self._fatal and now - self._fatal_at > FATAL_SECONDS:
            self._pass_on()  # a child of the host crashed, with the host's files
        self._memory.look()
        if not self._watch[TURNED]:
            return
        silent = now - max(self._watch[TURNED], self._awake_since)
        verdict = None
        if silent >= STOPPED_SECONDS:
            state = "".join(self._stat()[:1])
            began = self._watch[BEGAN]
            in_code = now - max(began, self._awake_since) if began else 0.0
            verdict = judge_silence(state, silent, in_code)
            if state in STOPPED_STATES:
                self._stopped_at = now
            self._end_stuck(now, state)
        if verdict is not None and self._silence is None:
            self._silence = verdict
            self._report(verdict, ATTEMPT_SECONDS)
        elif self._silence is not None and silent < STOPPED_SECONDS:
            self._silence = None
            self._report(Verdict(placement_pb2.LOSS_CAUSE_ALIVE, "its loop turns again"), ATTEMPT_SECONDS)

    def _end_stuck(self, now: float, state: str) -> None:
        """End the host if its own watchdog should have done so long ago."""
        began, limit = self._watch[BEGAN], self._watch[LIMIT]
        since = max(began, self._watch[SEEN], self._awake_since, self._stopped_at)
        if began and limit and now - since > limit + GRACE_SECONDS + LAST_PATIENCE_SECONDS:
            self._stuck = (
                f"an environment's code kept its loop for {now - since:.1f} s and let no other thread run"
            )
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def _stat(self) -> list[str]:
        """What /proc says of the host, from its state on; nothing when it is gone."""
        try:
            return Path(f"/proc/{self._host}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return []

    # ---- when it is gone

    def _bury(self) -> None:
        status = self._status()
        fatal = fatal_line(self._fatal.decode(errors="replace"))
        stuck = self._stuck
        if not stuck and status == EXIT_STUCK:
            stuck = "its watchdog ended it"
        verdict = judge_death(
            Evidence(
                status=status,
                fatal=fatal,
                stuck=stuck,
                told=self._told,
                left=self._left,
                out_of_memory=self._memory.look(),
            )
        )
        self._pass_on()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for file in (0, 1, 2):  # whoever reads what the host prints shall see its end
            os.dup2(nowhere, file)
        self._report(verdict, ATTEMPT_SECONDS if self._left else REPORT_SECONDS)

    def _pass_on(self) -> None:
        """Print what faulthandler said where it would have gone without a witness."""
        words, self._fatal = self._fatal, b""
        if words:
            with contextlib.suppress(OSError):
                os.write(2, words)

    def _status(self) -> int | None:
        """The exit code of the host, or minus the signal's number, where the kernel tells those who are no parents
        (Linux 6.15), or as long as its parent has not yet heard. The one begins where the other ends, and that may be
        while this is asking."""
        status = self._status_of_reaped()
        if status is not None:
            return status
        fields = self._stat()
        if fields[:1] == ["Z"]:
            return os.waitstatus_to_exitcode(int(fields[_EXIT_CODE]))
        return self._status_of_reaped()

    def _status_of_reaped(self) -> int | None:
        info = bytearray(_PIDFD_INFO.size)
        struct.pack_into("<Q", info, 0, _PIDFD_INFO_EXIT)
        try:
            fcntl.ioctl(self._process, _PIDFD_GET_INFO, info)
        except OSError:
            return None
        mask, *_, status = _PIDFD_INFO.unpack(info)
        return os.waitstatus_to_exitcode(status) if mask & _PIDFD_INFO_EXIT else None

    # ---- telling

    def _report(self, verdict: Verdict, patience: float) -> None:
        if self._host_id:
            asyncio.run(self._tell(verdict, patience))

    async def _tell(self, verdict: Verdict, patience: float) -> None:
        """Tell the broker; ``patience`` is for all attempts, in seconds."""
        broker = self._settings.broker
        access = self._settings.access_to(broker, self._settings.broker_token_file)
        links = Links(access, ())
        request = fleet_pb2.ReportLossRequest(
            host_id=self._host_id, cause=verdict.cause, message=verdict.message
        )
        end = time.monotonic() + patience
        try:
            while (left := end - time.monotonic()) > 0:
                stub: Any = fleet_pb2_grpc.FleetServiceStub(links.channel(broker))
                try:
                    await stub.ReportLoss(
                        request, metadata=access.metadata, timeout=min(left, ATTEMPT_SECONDS)
                    )
                    return
                except grpc.aio.AioRpcError as error:
                    if error.code() not in (
                        grpc.StatusCode.UNAVAILABLE,
                        grpc.StatusCode.DEADLINE_EXCEEDED,
                    ):
                        return
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            await links.close()
