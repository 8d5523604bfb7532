"""Hosts on machines of their own, as far as the network knows: each in a network namespace, on a cable that can be
pulled. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Cable", "cables", "why_not"]


def ip(*words: str) -> None:
    """Run ``ip``. Raises: RuntimeError with what it says."""
    done = subprocess.run(("ip", *words), capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Cable:
    """A namespace, and the link that leads there. ``here`` and ``there`` are the addresses of its two ends."""

    namespace: str
    link: str
    here: str
    there: str

    def pull(self) -> None:
        """Nothing gets through any more, and neither end is told."""
        ip("link", "set", self.link, "down")

    def plug(self) -> None:
        """It leads there again."""
        ip("link", "set", self.link, "up")

    def inside(self, *command: str) -> tuple[str, ...]:
        """The command line that runs this one in the namespace, as the same process."""
        return ("ip", "netns", "exec", self.namespace, *command)


@contextlib.contextmanager
def cables(count: int) -> Iterator[list[Cable]]:
    """So many namespaces with their links, gone afterwards."""
    made: list[Cable] = []
    try:
        for number in range(count):
            mine = f"{os.getpid() % 100_000}-{number}"
            net = f"10.213.{os.getpid() % 250}.{4 * number}".rpartition(".")
            here, there = (f"{net[0]}.{int(net[2]) + end}" for end in (1, 2))
            cable = Cable(f"envmesh-{mine}", f"em{mine}", here, there)
            ip("netns", "add", cable.namespace)
            made.append(cable)
            ip("link", "add", cable.link, "type", "veth", "peer", "name", "eth0", "netns", cable.namespace)
            ip("addr", "add", f"{here}/30", "dev", cable.link)
            ip("link", "set", cable.link, "up")
            for words in (("addr", "add", f"{there}/30", "dev", "eth0"), ("link", "set", "eth0", "up"),
                          ("link", "set", "lo", "up")):  # fmt: skip
                ip("-n", cable.namespace, *words)
        yield made
    finally:
        for cable in made:
            with contextlib.suppress(RuntimeError):
                ip("link", "del", cable.link)
            ip("netns", "del", cable.namespace)


def why_not() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    try:
        with cables(1):
            return ""
    except RuntimeError as error:
        return f"no network namespaces here: {error}"
