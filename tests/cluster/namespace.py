"""A network namespace that holds a whole test cluster, so that nothing of it can leave.

It is held by one process that sleeps. Programs are started inside with ``command``; this process reaches in through
sockets that are made inside (``connect``), for a socket belongs to the namespace in which it was made.
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace and a mount namespace, with loopback up."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "--kill-child", "--fork", "sh", "-c",
             "ip link set lo up && echo up && exec sleep infinity"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            raise OSError("no network namespace could be made")
        self.process_id = _only_child(self._holder.pid)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """A command line that runs ``arguments`` inside."""
        return [
            "nsenter",
            f"--net=/proc/{self.process_id}/ns/net",
            f"--mount=/proc/{self.process_id}/ns/mnt",
            *arguments,
        ]

    def run(self, *arguments: str, seconds: float = 10.0) -> str:
        """Run a command inside and return what it printed.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        done = subprocess.run(
            self.command(arguments), capture_output=True, text=True, timeout=seconds, check=False
        )
        if done.returncode:
            raise OSError(f"{' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def connect(self, address: str, port: int, seconds: float = 10.0) -> socket.socket:
        """A connection that was made inside."""
        made: list[socket.socket | OSError] = []

        def make() -> None:
            try:
                with open(f"/proc/{self.process_id}/ns/net", "rb") as place:  # noqa: PTH123 - a file descriptor is needed
                    if _libc.setns(place.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.create_connection((address, port), timeout=seconds))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(
            target=make, name="connect-inside"
        )  # only this thread moves, and it ends at once
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    def close(self) -> None:
        """End it; processes that still run inside keep it until they end."""
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()


def _only_child(process_id: int) -> int:
    path = f"/proc/{process_id}/task/{process_id}/children"
    with open(path) as file:  # noqa: PTH123 - /proc
        children = file.read().split()
    if not children or not Path("/proc", children[0]).exists():
        raise OSError("the namespace's process is gone")
    return int(children[0])
