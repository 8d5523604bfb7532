"""A mesh on the test cluster for tests of scaling: a broker and an autoscaler as processes of the cluster's network,
and a pool whose hosts are pods."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.api import Object
from tests.cluster.cluster import Cluster, until
from tests.cluster.control_plane import NODE_ADDRESS
from tests.cluster.replicas import Replicas

NAMESPACE = "default"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
BROKER = f"{NODE_ADDRESS}:7070"
PATIENCE = 90.0
POLICY = {"max_hosts": 4, "buffer_min": 0, "buffer_factor": 0, "look_back": 3, "idle_after": 2}


def deployment(name: str, *, slots: int = 4) -> Object:
    """A pool's Deployment, as the chart would make it."""

    def field(name: str, path: str) -> Object:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    variables = {
        "LISTEN": "0.0.0.0:7070", "ADVERTISE": "$(POD_IP):7070", "BROKER": BROKER, "POOL": name,
        "PLAINTEXT_BEYOND_LOOPBACK": "true", "ANYONE_BEYOND_LOOPBACK": "true", "HEALTH_LISTEN": "0.0.0.0:8080",
        "METRICS_LISTEN": "", "LEASE_IDLE": "500ms", "DRAIN_DEADLINE": "20s",
    }  # fmt: skip
    container = {
        "name": "host",
        "image": "test",
        "command": ["envmesh", "serve", "cartpole@1=gymnasium:CartPole-v1", "--slots", str(slots)],
        "env": [
            field("POD_IP", "status.podIP"), field("ENVMESH_HOST_HOST_ID", "metadata.uid"),
            field("ENVMESH_HOST_NAME", "metadata.name"),
            *({"name": f"ENVMESH_HOST_{key}", "value": value} for key, value in variables.items()),
        ],
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/ready"}, "periodSeconds": 1},
    }  # fmt: skip
    template = {
        "metadata": {
            "labels": {"pool": name},
            "annotations": {
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
        },
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 30},
    }
    return {
        "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"pool": name}}, "template": template},
    }


class Process:
    """A process on the cluster's network, that announces itself with one line of JSON."""

    def __init__(
        self, cluster: Cluster, log: Path, *command: str, environ: dict[str, str] | None = None
    ) -> None:
        self._log = log.open("a")
        self.process = subprocess.Popen(
            cluster.inside(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env={"PATH": str(Path(sys.executable).parent) + ":/usr/sbin:/usr/bin:/sbin:/bin", **(environ or {})},
            start_new_session=True,
        )  # fmt: skip

    def hear(self) -> Any:
        """The next line of JSON that it says."""
        assert self.process.stdout is not None
        there, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if there else ""
        assert line, f"{self.process.args!r} has ended, or says nothing; see {self._log.name}"
        return json.loads(line)

    def ask(self, line: str) -> Any:
        """Tell it something, and hear its answer."""
        self.tell(line)
        return self.hear()

    def tell(self, line: str) -> None:
        """Tell it something."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def most_resident_bytes(self) -> int:
        """The most memory that it has had."""
        said = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(said.partition("VmHWM:")[2].split()[0]) << 10

    def end(self, *, kill: bool = False) -> None:
        """End it."""
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        self.process.wait(20)
        for stream in (self.process.stdin, self.process.stdout, self._log):
            if stream is not None:
                stream.close()


class ScaledPool:
    """A mesh with one pool, ``cartpole``."""

    def __init__(
        self, cluster: Cluster, directory: Path, policy: Object | None = None, name: str = "cartpole"
    ) -> None:
        self.cluster, self.directory, self.name = cluster, directory, name
        self.pools = directory / "pools.json"
        pool = {"name": name, "environments": ["cartpole@1"], "slots": 4, **POLICY, **(policy or {})}
        self.pools.write_text(json.dumps({"max_hosts": 0, "pools": [pool]}))
        declared = [
            {"name": name, "environments": ["cartpole@1"], "slots": 4, "max_hosts": pool["max_hosts"]}
        ]
        (directory / "declared.json").write_text(json.dumps(declared))
        self.changes: list[tuple[float, int]] = []
        """When replicas were seen to change, by the wall clock, and to how many."""
        self.autoscalers: list[Process] = []

    @contextmanager
    def running(self, autoscalers: int = 1) -> Iterator[ScaledPool]:
        """Everything runs."""
        self.cluster.api.create(DEPLOYMENT, deployment(self.name))
        self.changes = Replicas(self.cluster.api, f"{DEPLOYMENT}/{self.name}", now=0).changes
        broker = Process(
            self.cluster, self.directory / "broker.log", sys.executable, "-m", "envmesh_broker",
            environ={
                "ENVMESH_BROKER_LISTEN": BROKER, "ENVMESH_BROKER_PLAINTEXT_BEYOND_LOOPBACK": "true",
                "ENVMESH_BROKER_ANYONE_BEYOND_LOOPBACK": "true", "ENVMESH_BROKER_METRICS_LISTEN": "",
                "ENVMESH_BROKER_POOLS_FILE": str(self.directory / "declared.json"),
            },
        )  # fmt: skip
        try:
            for _ in range(autoscalers):
                self.start_autoscaler()
            yield self
        finally:
            for process in (*self.autoscalers, broker):
                process.end(kill=True)
            self.cluster.api.delete(f"{DEPLOYMENT}/{self.name}", propagationPolicy="Foreground")
            path = f"{DEPLOYMENT}/{self.name}"
            until(lambda: self.cluster.api.find(path) is None and not self.pods(), "everything is gone", 90)

    def start_autoscaler(self) -> Process:
        """One more autoscaler."""
        number = len(self.autoscalers)
        process = Process(
            self.cluster, self.directory / f"autoscaler-{number}.log", "envmesh", "autoscale", "--broker", BROKER,
            "--pools", str(self.pools), "--namespace", NAMESPACE, "--listen", f"{NODE_ADDRESS}:{6000 + number}",
            "--kubeconfig", str(self.cluster.plane.kubeconfig), "--json",
            environ={"ENVMESH_AUTOSCALER_PLAINTEXT_BEYOND_LOOPBACK": "true", "ENVMESH_AUTOSCALER_NAME": f"a{number}"},
        )  # fmt: skip
        self.autoscalers.append(process)
        process.announced = process.hear()  # type: ignore[attr-defined]
        return process

    @contextmanager
    def trainer(self) -> Iterator[Process]:
        """A trainer that waits for commands."""
        process = Process(
            self.cluster, self.directory / "trainer.log", sys.executable, "-m", "tests.cluster.scaling_trainer",
            BROKER, "cartpole", environ={"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.end(kill=True)

    def replicas(self) -> int:
        """What is asked for."""
        return int(self.cluster.api.get(f"{DEPLOYMENT}/{self.name}")["spec"]["replicas"])

    def pods(self) -> list[Object]:
        """The pool's pods that are not terminating."""
        return self.cluster.pods(NAMESPACE, f"pool={self.name}")

    def metrics(self, number: int = 0) -> dict[str, float]:
        """An autoscaler's metrics, by name and labels."""
        url = self.autoscalers[number].announced["metrics"]  # type: ignore[attr-defined]
        look = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read().decode())"
        done = subprocess.run(
            self.cluster.inside(sys.executable, "-c", look, url),
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        lines = [
            line.rsplit(" ", 1) for line in done.stdout.splitlines() if line and not line.startswith("#")
        ]
        return {name: float(value) for name, value in lines}

    def calls(self, *resources: str, number: int = 0) -> float:
        """How often an autoscaler has called the API server about ``resources``; none: about anything. Watches,
        which are renewed every half minute whatever happens, do not count."""
        return sum(
            value
            for name, value in self.metrics(number).items()
            if name.startswith("envmesh_kubernetes_calls{")
            and 'verb="WATCH"' not in name
            and (not resources or any(f'resource="{each}"' in name for each in resources))
        )

    def log(self, number: int = 0) -> str:
        """What an autoscaler has said."""
        return (self.directory / f"autoscaler-{number}.log").read_text()
