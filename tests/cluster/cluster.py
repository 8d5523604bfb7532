"""A whole test cluster: the control plane, nodes, and what tests do with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.cluster.api import Api, Object
from tests.cluster.assets import ROOT
from tests.cluster.container import path_inside
from tests.cluster.control_plane import ADMIN_TOKEN, ControlPlane, Program

NODE_NUMBER_FIRST = 1
_Found = TypeVar("_Found")


class Waited(AssertionError):
    """What was waited for did not happen in time."""


def until(look: Callable[[], _Found], what: str, seconds: float = 60.0, every: float = 0.1) -> _Found:
    """Ask until the answer is true, at most ``seconds``; returns it.

    Raises:
        Waited: it never was; with the last answer.
    """
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise Waited(f"{what}: not within {seconds:g} s; the last answer was {found!r}")
        time.sleep(every)
    return found


class Cluster:
    """``with Cluster(directory, nodes=2) as cluster``. With ``engine`` containers are podman's, from images."""

    def __init__(self, directory: Path, *, nodes: int = 2, engine: bool = False) -> None:
        self.directory = directory
        self._engine = engine
        self.plane = ControlPlane(directory, cluster=True)
        self.nodes: dict[str, Program] = {}
        self._count = nodes

    @property
    def api(self) -> Api:
        """The API as administrator."""
        return self.plane.api

    def __enter__(self) -> Self:
        self.plane.__enter__()
        try:
            for number in range(1, self._count + 1):
                self.start_node(number)
            for number in range(1, self._count + 1):
                until(lambda n=number: self._node_ready(f"node-{n}"), f"node-{number} is ready", 30)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes.values():
            node.stop(signal.SIGKILL)
        self.plane.__exit__(kind, error, trace)

    # ---- nodes

    def start_node(self, number: int) -> None:
        """Start a node; after a loss it comes back under its name."""
        name = f"node-{number}"
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        inside = [
            "unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation=private", "--mount-proc",
            sys.executable, "-m", "tests.cluster.node", "--name", name, "--number", str(number), "--token", ADMIN_TOKEN,
            "--authority", str(self.plane.authority.certificate), "--directory", str(directory / str(time.time_ns())),
            *(["--engine"] if self._engine else []),
        ]  # fmt: skip
        command = self.plane.namespace.command(inside)
        self.nodes[name] = node = Program(name, command, self.directory, {"PYTHONPATH": str(ROOT)})
        node.start()

    def lose_node(self, name: str) -> None:
        """The node is gone at once, with everything on it."""
        self.nodes[name].stop(signal.SIGKILL)

    def _node_ready(self, name: str) -> bool:
        self.nodes[name].check()
        node = self.api.find(f"/api/v1/nodes/{name}")
        conditions = (node or {}).get("status", {}).get("conditions", [])
        taints = (node or {}).get("spec", {}).get("taints", [])
        return not taints and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    # ---- what tests ask

    def pods(self, namespace: str, selector: str = "") -> list[Object]:
        """The pods of a namespace that are not terminating."""
        found = self.api.items(
            f"/api/v1/namespaces/{namespace}/pods", **({"labelSelector": selector} if selector else {})
        )
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready(self, namespace: str, selector: str = "") -> list[Object]:
        """Those of ``pods`` that are Ready."""
        return [pod for pod in self.pods(namespace, selector) if is_ready(pod)]

    def logs(self, pod: str, container: str = "") -> str:
        """What a pod's containers have written, also after its end."""
        found = sorted(self.directory.glob(f"node-*/*/*_{pod}_*/{container or '*'}.log"))
        return "\n".join(
            f"== {path.parent.name}/{path.name}\n{path.read_text(errors='replace')}" for path in found
        )

    def helm(self, *arguments: str, seconds: float = 180.0, fails: bool = False) -> str:
        """Run Helm as administrator."""
        return self.plane.run("helm", *arguments, seconds=seconds, fails=fails)

    def kubectl(self, *arguments: str, seconds: float = 60.0, fails: bool = False) -> str:
        """Run kubectl as administrator."""
        return self.plane.run("kubectl", *arguments, seconds=seconds, fails=fails)

    def inside(self, *arguments: str) -> list[str]:
        """A command line that runs on the cluster's network, with its DNS, and ends with this process."""
        resolv = self.directory / "resolv.conf"
        resolv.write_text(
            "nameserver 10.96.0.10\nsearch svc.cluster.local cluster.local\noptions ndots:5 timeout:1\n"
        )
        script = f'mount --bind {resolv} /etc/resolv.conf && exec "$@"'
        outer = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "inside", *arguments]
        return self.plane.namespace.command(outer)

    def python(
        self, module: str, *arguments: str, environ: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start ``python -m module`` on the cluster's network."""
        command = self.inside(sys.executable, "-m", module, *arguments)
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={"PATH": path_inside(), "PYTHONPATH": str(ROOT), **(environ or {})}, start_new_session=True,
        )  # fmt: skip

    def describe(self, namespace: str) -> str:
        """Pods, events and logs, for a test that failed."""
        parts = [self.kubectl("get", "pods,deployments,jobs", "-n", namespace, "-o", "wide")]
        parts.append(self.kubectl("get", "events", "-n", namespace, "--sort-by=.lastTimestamp"))
        parts += [
            self.logs(pod["metadata"]["name"])[-2500:]
            for pod in self.api.items(f"/api/v1/namespaces/{namespace}/pods")
        ]
        return "\n".join(parts)


def passable(directory: Path) -> Path:
    """The directory of a cluster: containers run as another user, and must be able to reach their volumes below it."""
    for each in (directory, directory.parent, directory.parent.parent):
        each.chmod(0o711)
    return directory


def is_ready(pod: Object) -> bool:
    """Whether a pod is Ready."""
    return any(
        c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", [])
    )


def last_json(lines: Sequence[str]) -> Any:
    """The last line as JSON."""
    return json.loads(lines[-1])
