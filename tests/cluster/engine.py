"""A container as the real thing: from an image, by podman with runc, in the network namespace of its pod.

The kernel is told what a node's runtime tells it: user and capabilities of the security context, the default seccomp
profile, the memory limit as a control group; and of this machine the container sees its volumes and nothing else.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.cluster.api import Object

PROGRAMS = ("podman", "runc", "debootstrap")


def why_no_engine() -> str:
    """Why no image can be made and run here; empty: it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return (
            f"did not run: no real container without {', '.join(missing)} (Debian's packages of these names)"
        )
    return ""


def engine_command(
    container: Object,
    pod: Object,
    mounts: Mapping[str, Path],
    pause: int,
    command: Iterable[str],
    variables: Iterable[str],
    directory: Path,
) -> list[str]:
    """The command line that runs the container and ends with it. ``variables`` are taken from its own environment; the
    container's process 1 is then in the file ``directory/process``."""
    spec = pod["spec"]
    context = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
    flags = [
        "--rm", "--pull=never", f"--name={pod['metadata']['uid']}-{directory.name}", "--cgroups=no-conmon",
        f"--pidfile={directory / 'process'}", f"--network=ns:/proc/{pause}/ns/net", "--no-hosts",
        f"--volume={directory.parent / 'resolv.conf'}:/etc/resolv.conf:ro",
        f"--volume={directory.parent / 'hosts'}:/etc/hosts:ro",
        *(f"--env={name}" for name in variables),
        *(f"--ulimit={name}={limit}:{limit}" for name, limit in _limits().items()),
    ]  # fmt: skip
    if context.get("runAsNonRoot") and not context.get("runAsUser"):
        raise ValueError("a user by number is needed: the image's own is not looked up here")
    if "runAsUser" in context:
        flags.append(f"--user={context['runAsUser']}:{context.get('runAsGroup', context['runAsUser'])}")
    if context.get("fsGroup"):
        flags.append(f"--group-add={context['fsGroup']}")
    if context.get("readOnlyRootFilesystem"):
        flags += ["--read-only", "--read-only-tmpfs=false"]
    if context.get("allowPrivilegeEscalation") is False:
        flags.append("--security-opt=no-new-privileges")
    flags += [f"--cap-drop={name}" for name in context.get("capabilities", {}).get("drop", [])]
    if memory := container.get("resources", {}).get("limits", {}).get("memory"):
        flags.append(f"--memory={memory.removesuffix('i').lower()}")
    for mount in container.get("volumeMounts", []):
        source = mounts[mount["name"]] / mount.get("subPath", "")
        flags.append(f"--volume={source}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}")
    return [
        "podman",
        "--runtime=runc",
        "--cgroup-manager=cgroupfs",
        "run",
        *flags,
        container["image"],
        *command,
    ]


def _limits() -> dict[str, int]:
    """Without CAP_SYS_RESOURCE nobody can raise what this process has, and an engine would try to."""
    known = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    return {name: max(1024, resource.getrlimit(which)[1]) for name, which in known.items()}
