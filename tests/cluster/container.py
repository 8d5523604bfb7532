"""A container as a real process: its own process and mount namespaces, in the network namespace of its pod.

The image is this machine's own file system with the repository's virtual environment, seen through an overlay: what the
container writes stays its own, and with ``readOnlyRootFilesystem`` it writes nothing. User, group, capabilities and
``no-new-privileges`` are as the security context says.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster.api import Object
from tests.cluster.assets import ROOT

_PROGRAMS = (ROOT, Path(sys.base_prefix))
"""What a container runs, where this machine has it."""
_SCRIPT = r"""
set -e
work=$1; shift
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
root=$work/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t sysfs -o ro sysfs "$root/sys" 2>/dev/null || true
mount -t tmpfs -o mode=755 tmpfs "$root/run"
"""


def container_command(
    container: Object, pod: Object, mounts: Mapping[str, Path], work: Path, pause: int, command: Sequence[str]
) -> list[str]:
    """The command line that runs ``command`` as process 1 of the container. ``mounts``: volume to directory."""
    context = {**pod["spec"].get("securityContext", {}), **container.get("securityContext", {})}
    closed = _opened(ROOT / ".venv", Path(sys.base_prefix))
    lines = [_SCRIPT, *(f'chmod o+x "$root"{shlex.quote(str(directory))}' for directory in closed)]
    kept = {path: f"$work/kept-{number}" for number, path in enumerate(_PROGRAMS)}
    for path, place in kept.items():
        lines.append(f'mkdir "{place}"; mount --bind "$root"{shlex.quote(str(path))} "{place}"')
    for mount in container.get("volumeMounts", []):
        source = mounts[mount["name"]] / mount.get("subPath", "")
        # Links are followed as the container sees them: /var/run is /run, and its own.
        lines.append(f'target=$root$(chroot "$root" realpath -m {shlex.quote(mount["mountPath"])})')
        made = 'touch "$target"' if source.is_file() else 'mkdir -p "$target"'
        lines.append(
            f'mkdir -p "$(dirname "$target")"; {made}; mount --bind {shlex.quote(str(source))} "$target"'
        )
        for path in _PROGRAMS:  # a checkout below /tmp, say, would be hidden by a volume there
            if Path(mount["mountPath"]) in path.parents:
                there = f'"$root"{shlex.quote(str(path))}'
                lines.append(f'mkdir -p {there}; mount --bind "{kept[path]}" {there}')
        if mount.get("readOnly"):
            lines.append('mount -o remount,bind,ro "$target"')
    lines.append(f'mount --bind {shlex.quote(str(work.parent / "resolv.conf"))} "$root/etc/resolv.conf"')
    lines.append(f'mount --bind {shlex.quote(str(work.parent / "hosts"))} "$root/etc/hosts"')
    if context.get("readOnlyRootFilesystem"):
        lines.append('mount -o remount,ro "$root"')
    user, group = context.get("runAsUser", 0), context.get("runAsGroup", context.get("runAsUser", 0))
    drop = ["--bounding-set=-all", "--inh-caps=-all"] if user else []
    privileges = ["--no-new-privs"] if context.get("allowPrivilegeEscalation") is False else []
    groups = f"--groups={context['fsGroup']}" if context.get("fsGroup") else "--clear-groups"
    inside = ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={group}", groups, *drop, *privileges]
    inside += ["/usr/bin/env", "-C", container.get("workingDir", "/"), *command]
    lines.append('exec chroot "$root" "$@"')
    return [
        "nsenter", f"--net=/proc/{pause}/ns/net", "unshare", "--mount", "--propagation=private", "--pid", "--fork",
        "--kill-child", "--", "/bin/sh", "-c", "\n".join(lines), "container", str(work), *inside,
    ]  # fmt: skip


def path_inside() -> str:
    """PATH in a container: the virtual environment first, as in the image."""
    return f"{ROOT / '.venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class Container:
    """One run of a container."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], log: Path, process: Path | None = None
    ) -> None:
        self.reason = ""
        """Why it was ended, where the node ended it: OOMKilled."""
        self._first = process  # the file in which an engine leaves the number of process 1
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env={"PATH": path_inside(), **environ}, start_new_session=True,
            )  # fmt: skip

    @property
    def exit_code(self) -> int | None:
        """Its exit status as Kubernetes tells it; None while it runs."""
        status = self._process.poll()
        return None if status is None else status if status >= 0 else 128 - status

    def wait(self, seconds: float) -> bool:
        """Whether it ended within ``seconds``."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def process_id(self) -> int | None:
        """Process 1 of the container, as the node sees it."""
        if self._first is not None:
            return int(self._first.read_text()) if self._first.exists() and self.exit_code is None else None
        return next(iter(_children(self._process.pid)), None)

    def signal(self, number: signal.Signals) -> None:
        """Send process 1 a signal."""
        process_id = self.process_id
        with contextlib.suppress(ProcessLookupError):
            if process_id is not None:
                os.kill(process_id, number)
            elif number == signal.SIGKILL:
                self._process.kill()

    def resident_bytes(self) -> int:
        """Resident memory of all its processes."""
        first = self.process_id
        if first is None:
            return 0
        pages, todo = 0, [first]
        while todo:
            process_id = todo.pop()
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
            todo.extend(_children(process_id))
        return pages * os.sysconf("SC_PAGE_SIZE")

    def execute(self, command: Sequence[str], seconds: float) -> int:
        """Run a command inside, as exec probes and hooks do; its exit status."""
        process_id = self.process_id
        if process_id is None:
            return 1
        inside = [
            "nsenter",
            f"--target={process_id}",
            "--mount",
            "--net",
            "--pid",
            "--root",
            "--wd",
            "--",
            *command,
        ]
        try:
            return subprocess.run(
                inside, capture_output=True, timeout=seconds, check=False, env={"PATH": path_inside()}
            ).returncode
        except subprocess.TimeoutExpired:
            return 124


def _children(process_id: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{process_id}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _opened(*paths: Path) -> list[Path]:
    """Directories on the way to ``paths`` that only their owner may pass."""
    found: dict[Path, None] = {}
    for path in paths:
        for directory in (*reversed(path.parents), path):
            if not directory.stat().st_mode & 0o001:
                found[directory] = None
    return list(found)
