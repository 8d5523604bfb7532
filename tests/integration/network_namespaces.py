"""Hosts on machines of their own, as far as the network knows: each in a network namespace, on a cable that can be
pulled. Needs root, unshare and iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.cluster.namespace import Namespace

__all__ = ["Cable", "cables", "why_not"]


def ip(*words: str) -> None:
    """Run ``ip`` on this side. Raises: OSError with what it says."""
    done = subprocess.run(("ip", *words), capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Cable:
    """The link that leads into a namespace. ``here`` and ``there`` are the addresses of its two ends."""

    namespace: Namespace
    link: str
    here: str
    there: str

    def pull(self) -> None:
        """Nothing gets through any more, and neither end is told."""
        ip("link", "set", self.link, "down")

    def plug(self) -> None:
        """It leads there again."""
        ip("link", "set", self.link, "up")


@contextlib.contextmanager
def cables(count: int) -> Iterator[list[Cable]]:
    """So many namespaces with their links, gone afterwards."""
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(count):
            namespace = Namespace()
            stack.callback(namespace.close)
            network = f"10.213.{os.getpid() % 250}"
            here, there = (f"{network}.{4 * number + end}" for end in (1, 2))
            cable = Cable(namespace, f"em{os.getpid() % 100_000}-{number}", here, there)
            inside = str(namespace.process_id)
            ip("link", "add", cable.link, "type", "veth", "peer", "name", "eth0", "netns", inside)
            stack.callback(ip, "link", "del", cable.link)  # with its namespace it would go a little later
            ip("addr", "add", f"{here}/30", "dev", cable.link)
            cable.plug()
            namespace.run("ip", "addr", "add", f"{there}/30", "dev", "eth0")
            namespace.run("ip", "link", "set", "eth0", "up")
            made.append(cable)
        yield made


def why_not() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]:
        return f"network namespaces need {', '.join(missing)}"
    try:
        with cables(1):
            return ""
    except OSError as error:
        return f"no network namespaces here: {error}"
