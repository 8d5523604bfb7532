"""Where the programs of a Kubernetes control plane are on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
CLUSTER = (*CONTROL_PLANE, "kube-scheduler", "kube-proxy", "coredns", "helm")
_MACHINE = ("unshare", "nsenter", "ip", "nft", "setpriv", "mount")

_PROBES = {
    "network namespaces (CAP_SYS_ADMIN)": "true",
    "overlay file systems": "mount -t tmpfs tmpfs /mnt; cd /mnt; mkdir upper work root; "
    "mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root",
    "nftables": "nft add table ip probe",
}
"""What containers and Service addresses need of the kernel, and how to see whether it is there."""


@cache
def assets(*, keda: bool = False) -> Path | None:
    """The directory with the programs: $KUBEBUILDER_ASSETS, what ``make control-plane`` has built, or what
    ``../shared/kube/unpack`` unpacks; else None."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given and (not keda or Path(given, "keda-operator").is_file()):
        return Path(given)
    built = ROOT / "build" / "control-plane"
    if (built / ("keda-operator" if keda else "kubectl")).is_file():
        return built
    unpack = ROOT.parent / "shared" / "kube" / "unpack"
    for place in (unpack, ROOT.parent.parent / "shared" / "kube" / "unpack"):
        if place.is_file():
            command = [str(place), *(["--keda"] if keda else [])]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
            return Path(done.stdout.strip())
    return None


def program(name: str) -> Path:
    """The path of a program of the control plane."""
    directory = assets()
    assert directory is not None, "ask why_not first"
    return directory / name


def helm() -> str | None:
    """The path of Helm: among the assets, or on PATH. None: nowhere."""
    directory = assets()
    if directory is not None and (directory / "helm").is_file():
        return str(directory / "helm")
    return shutil.which("helm")


def why_not(programs: tuple[str, ...] = CLUSTER) -> str:
    """Why these programs cannot run as a cluster here, and what would make them; empty: they can."""
    directory = assets()
    if directory is None:
        return (
            "did not run: no Kubernetes programs here. `make control-plane` builds them (Go 1.26), or set "
            f"KUBEBUILDER_ASSETS to a directory that has {', '.join(programs)}"
        )
    missing = [name for name in programs if not (directory / name).is_file()]
    if missing:
        return f"did not run: {directory} has no {', '.join(missing)}"
    if os.geteuid() != 0:
        return "did not run: network namespaces need root; run it as root (in a container with CAP_SYS_ADMIN, say)"
    absent = [name for name in _MACHINE if shutil.which(name) is None]
    if absent:
        return (
            f"did not run: this machine has no {', '.join(absent)} (packages iproute2, nftables, util-linux)"
        )
    for what, command in _PROBES.items():
        outer = ["unshare", "--net", "--mount", "--propagation=private", "sh", "-ec", command]
        done = subprocess.run(outer, capture_output=True, text=True, timeout=10, check=False)
        if done.returncode != 0:
            return f"did not run: this machine has no {what} for us: {done.stderr.strip()[:200]}"
    return ""
