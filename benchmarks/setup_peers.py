"""Make the peers' virtual environments: ``python -m benchmarks.setup_peers [NAME ...]``.

Each goes to ``benchmarks/.venvs/NAME`` with what ``peers/requirements/NAME.txt`` asks for, since what the peers need
does not fit together. One that is up to date is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import PEERS, Peer

HERE = Path(__file__).resolve().parent
VENVS = HERE / ".venvs"
REQUIREMENTS = HERE / "peers" / "requirements"
NEWEST_PYTHON = (3, 13)
INSTALL_TIMEOUT = 900


def main() -> int:
    """Make those asked for, or all; say which could not be made."""
    homes = {peer.home: peer for peer in PEERS.values() if peer.home}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.setup_peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(homes)}; default: all")
    names = parser.parse_args().names or list(homes)
    if unknown := set(names) - set(homes):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    failed = False
    for name in names:
        try:
            print(f"{name}: {make(homes[name])}", flush=True)
        except (OSError, LookupError, subprocess.SubprocessError) as error:
            failed = True
            print(f"{name}: not made: {error}", file=sys.stderr, flush=True)
    return int(failed)


def python_of(peer: Peer) -> Path:
    """The interpreter that runs a peer, whether it is there or not."""
    return VENVS / peer.home / "bin" / "python" if peer.home else Path(sys.executable)


def is_ready(peer: Peer) -> bool:
    """Whether the peer can run: its virtual environment is whole."""
    return not peer.home or _stamp(peer).exists()


def make(peer: Peer) -> str:
    """Make the virtual environment of a peer unless it is up to date, and say what was done.

    Raises:
        LookupError: no fitting Python is there.
        subprocess.SubprocessError: its packages could not be installed.
    """
    stamp = _stamp(peer)
    if stamp.exists():
        return "up to date"
    venv = VENVS / peer.home
    python = find_python(peer.at_least)
    subprocess.run([python, "-m", "venv", "--clear", venv], check=True, timeout=120)
    install = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    requirements = REQUIREMENTS / f"{peer.home}.txt"
    subprocess.run([*install, "--requirement", str(requirements)], check=True, timeout=INSTALL_TIMEOUT)
    stamp.touch()
    return f"made with {python}"


def find_python(at_least: tuple[int, int]) -> Path:
    """The oldest Python that is at least so new: the running one, or one on PATH or of pyenv.

    Raises:
        LookupError: there is none.
    """
    if at_least <= sys.version_info[:2] <= NEWEST_PYTHON:
        return Path(sys.executable)
    for minor in range(at_least[1], NEWEST_PYTHON[1] + 1):
        for candidate in _candidates(f"python3.{minor}"):
            # A shim of pyenv is on PATH also for versions that are not selected; only running it tells.
            if (
                subprocess.run([candidate, "-c", ""], check=False, capture_output=True, timeout=30).returncode
                == 0
            ):
                return candidate
    raise LookupError(f"needs Python {at_least[0]}.{at_least[1]} to {NEWEST_PYTHON[0]}.{NEWEST_PYTHON[1]}")


def _candidates(name: str) -> Iterator[Path]:
    places = [Path(place) for place in os.get_exec_path()]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places += sorted(pyenv.glob("versions/*/bin"))
    return (place / name for place in places if os.access(place / name, os.X_OK))


def _stamp(peer: Peer) -> Path:
    digest = hashlib.sha256((REQUIREMENTS / f"{peer.home}.txt").read_bytes()).hexdigest()[:16]
    return VENVS / peer.home / f".installed-{digest}"


if __name__ == "__main__":
    sys.exit(main())
