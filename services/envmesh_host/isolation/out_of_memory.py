"""How often the kernel has killed for want of memory in this process's cgroup."""

from __future__ import annotations

from pathlib import Path

__all__ = ["OutOfMemory", "find_events", "kills_in"]

ROOT = Path("/sys/fs/cgroup")


def kills_in(text: str) -> int:
    """The count in a ``memory.events`` (cgroup 2) or ``memory.oom_control`` (cgroup 1); 0 where it has none (pure)."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.strip().isdecimal():
            return int(number)
    return 0


def find_events(cgroups: str, root: Path = ROOT) -> list[Path]:
    """The files that may hold the count, by what /proc/self/cgroup says: the best first (pure). A container sees its
    own cgroup as the root."""
    found = []
    for line in cgroups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found += [root / path.lstrip("/") / "memory.events", root / "memory.events"]
        elif "memory" in controllers.split(","):
            place = root / "memory"
            found += [place / path.lstrip("/") / "memory.oom_control", place / "memory.oom_control"]
    return found


class OutOfMemory:
    """The count of kills, as far as it is told. ``before`` is what it was when it was last looked at."""

    def __init__(self, events: Path | None = None):
        self._events = events or next(filter(_readable, _candidates()), None)
        self.before = self.count()

    def count(self) -> int:
        """What it is now."""
        try:
            return kills_in(self._events.read_text()) if self._events is not None else 0
        except OSError:
            return 0

    def look(self) -> bool:
        """Whether there were kills since the last look."""
        before, self.before = self.before, self.count()
        return self.before > before

    def take(self) -> bool:
        """Whether one of the kills is to be laid to a process that has just ended; each counts for one process."""
        if self.count() <= self.before:
            return False
        self.before += 1
        return True


def _candidates() -> list[Path]:
    try:
        return find_events(Path("/proc/self/cgroup").read_text())
    except OSError:
        return []


def _readable(path: Path) -> bool:
    try:
        return "oom_kill" in path.read_text()
    except OSError:
        return False
