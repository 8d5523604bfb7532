"""A release of the chart in a test cluster: installed with real Helm, and trained on from inside the network."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.cluster.api import Object
from tests.cluster.assets import ROOT
from tests.cluster.cluster import Cluster, until

CHART = ROOT / "helm" / "envmesh"
RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/warn": "restricted",
}


def small(**more: Any) -> dict[str, Any]:
    """Values for a machine of two cores: one pool of walks with few slots, quick drains, and our code on the path."""
    path = [{"name": "PYTHONPATH", "value": str(ROOT)}]
    walk = {"name": "walk", "version": "1", "target": "tests.cluster.worlds:Walk"}
    pool: dict[str, Any] = {
        "environments": [walk],
        "slots": 16,
        "scaling": {"mode": "manual"},
        "extraEnv": path,
        "drain": {"deadline": 20, "checkpoint": 1},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "probes": {"readiness": {"periodSeconds": 1}},
    }
    made: dict[str, Any] = {
        "pools": {"cartpole": None, "walk": pool},
        "autoscaler": {"enabled": False},
    }
    return merged(made, more)


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``more`` on top, maps joined."""
    result = dict(base)
    for key, value in more.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return result


class Trainer:
    """A trainer process; ``line`` is the newest of what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, name="trainer", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(5)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    @property
    def line(self) -> dict[str, Any]:
        """The newest line; an empty one before the first."""
        return self.lines[-1] if self.lines else {}

    def finished(self, seconds: float) -> dict[str, Any]:
        """Wait for its last line.

        Raises:
            AssertionError: it is not done in time, or failed.
        """
        until(
            lambda: self.line.get("done") or self.process.poll() is not None, "the trainer is done", seconds
        )
        self._reader.join(5)
        assert self.line.get("done"), f"the trainer ended with {self.process.poll()}: {self.line}"
        return self.line

    def stop(self, seconds: float = 60.0) -> dict[str, Any]:
        """Tell it to end early, and wait."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.finished(seconds)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            if text.startswith("{"):
                self.lines.append(json.loads(text))


class Release:
    """One release, in a namespace of its own that enforces the restricted Pod Security standard."""

    def __init__(self, cluster: Cluster, namespace: str, name: str = "envmesh") -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, name
        self._directory = cluster.directory / f"release-{namespace}"
        self._directory.mkdir()
        cluster.api.create("/api/v1/namespaces", {"metadata": {"name": namespace, "labels": RESTRICTED}})

    def install(self, values: Mapping[str, Any], *more: str, seconds: float = 180.0) -> str:
        """``helm install``, and wait until everything is available."""
        return self._helm("install", values, "--wait", f"--timeout={int(seconds)}s", *more)

    def upgrade(
        self, values: Mapping[str, Any], *more: str, seconds: float = 180.0, fails: bool = False
    ) -> str:
        """``helm upgrade`` with exactly these values."""
        return self._helm("upgrade", values, f"--timeout={int(seconds)}s", *more, fails=fails)

    def _helm(self, verb: str, values: Mapping[str, Any], *more: str, fails: bool = False) -> str:
        path = self._directory / "values.yaml"
        path.write_text(yaml.safe_dump(dict(values)))
        chart = str(CHART)
        try:
            return self.cluster.helm(
                verb,
                self.name,
                chart,
                "--namespace",
                self.namespace,
                "--values",
                str(path),
                *more,
                fails=fails,
                seconds=300,
            )
        except Exception as error:
            raise AssertionError(f"{error}\n{self.cluster.describe(self.namespace)}") from error

    def hosts(self, pool: str = "walk") -> list[Object]:
        """The Ready hosts of a pool."""
        return self.cluster.ready(self.namespace, f"envmesh.dev/pool={pool}")

    def scale(self, count: int, pool: str = "walk") -> None:
        """Set the count of a manual pool."""
        self.cluster.api.patch(self.deployment(pool) + "/scale", {"spec": {"replicas": count}})

    def deployment(self, pool: str = "walk") -> str:
        """The path of a pool's Deployment."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name}-pool-{pool}"

    def await_hosts(self, count: int, pool: str = "walk", seconds: float = 90.0) -> list[Object]:
        """Wait until so many hosts are Ready, and no other pod of the pool is there."""

        def settled() -> list[Object]:
            pods = self.cluster.pods(self.namespace, f"envmesh.dev/pool={pool}")
            ready = self.hosts(pool)
            return ready if len(pods) == len(ready) == count else []

        try:
            return until(settled, f"{count} hosts of {pool} are ready", seconds) if count else []
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.cluster.describe(self.namespace)}") from None

    def autoscaler_logs(self) -> str:
        """What its autoscalers have said."""
        pods = self.cluster.pods(self.namespace, "app.kubernetes.io/component=autoscaler")
        return "\n".join(self.cluster.logs(pod["metadata"]["name"]) for pod in pods)

    def secret(self, name: str, key: str) -> bytes:
        """What a Secret of the release holds."""
        found = self.cluster.api.get(f"/api/v1/namespaces/{self.namespace}/secrets/{self.name}-{name}")
        return base64.b64decode(found["data"][key])

    def train(self, *arguments: str, mesh: str = "") -> Trainer:
        """Start a trainer that connects to ``mesh``; empty: to the broker."""
        mesh = mesh or f"{self.name}-broker.{self.namespace}.svc.cluster.local:7070"
        environ = self.access()
        return Trainer(
            self.cluster.python("tests.cluster.trainer", "--mesh", mesh, *arguments, environ=environ)
        )

    def access(self) -> dict[str, str]:
        """The token and the authority that the installation made, as variables of a trainer."""
        authority: Path = self._directory / "ca.crt"
        authority.write_bytes(self.secret("trainer-token", "ca.crt"))
        return {
            "ENVMESH_TOKEN": self.secret("trainer-token", "token").decode(),
            "ENVMESH_CA": str(authority),
        }


def uids(pods: Sequence[Object]) -> set[str]:
    """The uids of pods."""
    return {pod["metadata"]["uid"] for pod in pods}
