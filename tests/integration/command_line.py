"""The real `envmesh` executable: run to its end, or started, sent signals, and looked at for what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ENVMESH = Path(sys.executable).with_name("envmesh")
PATIENCE = 45.0
MEASURES_COVERAGE = "COVERAGE_PROCESS_CONFIG" in os.environ


def environ(**more: str) -> dict[str, str]:
    """This process's environment without settings of envmesh."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENVMESH_")}
    return {**kept, **more}


def envmesh(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [ENVMESH, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=cwd,
        env=environ(**variables),
    )


def envmesh_json(*arguments: str, status: int = 0, cwd: Path | None = None, **variables: str) -> Any:
    """Run a command to its end; the one JSON object that it prints."""
    done = envmesh(*arguments, "--json", cwd=cwd, **variables)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    (line,) = done.stdout.splitlines()
    return json.loads(line)


class Running:
    """A command that goes on, and what it announced."""

    def __init__(self, process: subprocess.Popen[str], announced: dict[str, Any]):
        self.process = process
        self.announced = announced
        self.family = {process.pid} | descendants(process.pid)

    @property
    def address(self) -> str:
        return str(self.announced["address"])

    def interrupt(self) -> None:
        """What Ctrl-C does, to this process alone."""
        self.family |= descendants(self.process.pid)
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        return self.process.wait(timeout=PATIENCE)

    def said(self, words: str) -> str:
        """Everything on standard error up to the line with these words."""
        assert self.process.stderr is not None
        heard = ""
        while words not in heard:
            line = self.process.stderr.readline()
            assert line, f"it ended without saying {words!r}: {heard}"
            heard += line
        return heard

    def left_over(self) -> set[int]:
        """Processes of its family that still live, after a moment to go."""
        eventually(lambda: not self._living(), 5.0)
        return self._living()

    def _living(self) -> set[int]:
        return {pid for pid in self.family if is_alive(pid)}


def _ask_to_end(process: subprocess.Popen[str]) -> None:
    """Twice, so that it drains nothing: who is killed says nothing of what it ran."""
    for _ in range(2):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)
            return


@contextmanager
def started(*arguments: str, cwd: Path | None = None, **variables: str) -> Iterator[Running]:
    """Start a command, and wait until it announces where it is."""
    process = subprocess.Popen(
        [ENVMESH, *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environ(**variables),
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            _, errors = process.communicate(timeout=PATIENCE)
            raise AssertionError(f"it announced nothing: {errors}")
        yield Running(process, json.loads(line))
    finally:
        family = descendants(process.pid)
        if MEASURES_COVERAGE:
            _ask_to_end(process)
        process.kill()
        process.communicate(timeout=PATIENCE)
        for pid in family:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> set[int]:
    """Every process that descends from one."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = {int(word) for word in task.read_text().split()}
        except OSError:
            continue
        for child in children:
            found |= {child} | descendants(child)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> bool:
    """Whether a condition comes true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
