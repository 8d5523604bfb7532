"""An environment under judgement, in a child process: asked for measurements, never waited for beyond a bound."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from envmesh import values
from envmesh.env import Declaration, Definition

__all__ = ["Answer", "Subject"]

_MOST_MEMORY = 0.8
"""The share of the machine's available memory that a child may come to use before it is ended."""
_MODULE = "envmesh_cli.check.child"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a measurement gave: ``result``, or in one sentence why there is none."""

    result: dict[str, Any]
    failure: str = ""
    died: bool = False
    """The process ended, or had to be ended."""
    hung: bool = False
    """It was ended because no answer came."""
    unexpected: bool = False
    """The check itself went wrong."""
    no_action: bool = False
    """The check found no action to try."""
    printed: int = 0
    """Bytes the environment has written to standard output and error so far."""

    @property
    def ok(self) -> bool:
        """Whether there is a result."""
        return not self.failure


class Subject:
    """A child process that measures one environment. It begins with the first question, and again after its death."""

    def __init__(
        self, definition: Definition, *, seed: int, steps: int, pool: Sequence[Any], hash_seed: str = "0"
    ) -> None:
        self._opening = {
            "target": definition.target,
            "name": definition.name if definition.name != definition.target else None,
            "declared": _declared(definition.declaration),
            "path": [entry or str(Path.cwd()) for entry in sys.path],
            "seed": seed,
            "steps": steps,
            "pool": [base64.b64encode(values.encode(action)).decode() for action in pool],
        }
        self._hash_seed = hash_seed
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = -1
        self._replies = -1
        self._unread = b""
        self._stacks: IO[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def ask(self, measure: str, *, seconds: float, patience: float, **arguments: Any) -> Answer:
        """Measure something, for about ``seconds``, and ``patience`` seconds more at most."""
        if self._process is None:
            self._begin()
        request = {"measure": measure, "seconds": seconds, "arguments": arguments}
        try:
            os.write(self._requests, json.dumps(request).encode() + b"\n")
        except OSError:
            return self._dead()
        line = self._line(time.monotonic() + seconds + patience)
        if isinstance(line, Answer):
            return line
        reply = json.loads(line)
        if "result" in reply:
            return Answer(reply["result"], printed=reply["printed"])
        broke = reply["broke"]
        return Answer(
            {},
            broke["message"],
            unexpected=broke["kind"] == "unexpected",
            no_action=broke["kind"] == "no action",
            printed=reply["printed"],
        )

    def end(self) -> None:
        """End the process and everything it began."""
        process, self._process = self._process, None
        if process is None:
            return
        for descriptor in (self._requests, self._replies):
            os.close(descriptor)
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for file in (self._stacks, self._output):
            if file is not None:
                file.close()

    def _begin(self) -> None:
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._unread = b""
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        descriptors = (requests, replies, self._stacks.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=descriptors,
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": self._hash_seed},
        )
        os.close(requests)
        os.close(replies)
        os.write(self._requests, json.dumps(self._opening).encode() + b"\n")

    def _line(self, until: float) -> bytes | Answer:
        """The next reply; or what became of the process instead."""
        most = _available_memory() * _MOST_MEMORY
        while b"\n" not in self._unread:
            left = until - time.monotonic()
            if left <= 0:
                return self._hung()
            ready, _, _ = select.select([self._replies], [], [], min(left, 0.1))
            if ready:
                received = os.read(self._replies, 1 << 20)
                if not received:
                    return self._dead()
                self._unread += received
            elif self._process is not None and 0 < most < _resident(self._process.pid):
                self.end()
                return Answer(
                    {}, f"it came to hold more than {most / 2**30:.1f} GiB and was ended", died=True
                )
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _dead(self) -> Answer:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        code, where = self._process.returncode, self._where()
        self.end()
        if code is None:
            how = "it closed the descriptors of its process"
        elif code < 0:
            how = f"it ended its process with {_signal_name(-code)}"
        else:
            how = f"it ended its process with exit code {code}"
        return Answer({}, how + where, died=True)

    def _hung(self) -> Answer:
        assert self._process is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.send_signal(signal.SIGABRT)  # the fault handler writes the stack
            self._process.wait(timeout=2)
        where = self._where()
        self.end()
        return Answer({}, f"it did not come back{where}", died=True, hung=True)

    def _where(self) -> str:
        """The innermost place in a stack that the fault handler wrote, outside of this package and the library."""
        if self._stacks is None:
            return ""
        self._stacks.seek(0)
        text = self._stacks.read().decode(errors="replace")
        for path, line in re.findall(r'File "([^"]+)", line (\d+)', text):
            library = f"{os.sep}lib{os.sep}python" in path and "site-packages" not in path
            if "envmesh_cli" not in path and not library:
                return f" ({Path(path).name}, line {line})"
        return ""


def _declared(declaration: Declaration) -> dict[str, Any]:
    """What the child cannot know from the target: the options that were laid over it, without the spaces."""
    limits = declaration.limits
    return {
        "version": declaration.version,
        "recovery": declaration.recovery.value,
        "isolation": declaration.isolation.value,
        "options": list(declaration.options),
        "seeded": declaration.seeded,
        "deterministic": declaration.deterministic,
        "global_random": declaration.global_random,
        "limits": {
            "reset_seconds": limits.reset_seconds,
            "step_seconds": limits.step_seconds,
            "reward_seconds": limits.reward_seconds,
        },
        "declared": declaration.declared,
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _available_memory() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if found:
            return int(found[1]) * 1024
    return 0


def _resident(process: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
