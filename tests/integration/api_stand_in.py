"""An API server on a real port that refuses, throttles, conflicts and tells old news when it is told to.

It keeps a few objects as JSON and answers lists, watches, ``/scale`` and patches of the kinds that an autoscaler uses;
what a real API server does with them is shown in tests/cluster. Here are its bad days.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Object = dict[str, Any]

DEPLOYMENTS = "/apis/apps/v1/namespaces/rl/deployments"
PODS = "/api/v1/namespaces/rl/pods"


class StandIn:
    """``objects`` by path; ``refusals`` are spent one a call of ``(method, path)``: (status, seconds to wait)."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.refusals: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.calls: list[tuple[str, str]] = []
        self.version = 100
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Object, int]:
        """Status, body, and the pause asked for."""
        with self._lock:
            self.calls.append((method, path))
            spent = self.refusals.get((method, path))
            if spent:
                status, wait = spent.pop(0)
                return status, {"message": "as the test says"}, wait
            return (*self._do(method, path, body), 0)

    def put(self, path: str, value: Object) -> None:
        """Have an object, with a new version."""
        self.version += 1
        value["metadata"]["resourceVersion"] = str(self.version)
        self.objects[path] = value

    def _do(self, method: str, path: str, body: Any) -> tuple[int, Object]:
        name = path.removesuffix("/scale")
        found = self.objects.get(name)
        if found is None:
            items = [each for key, each in self.objects.items() if key.rpartition("/")[0] == path]
            return 200, {"metadata": {"resourceVersion": str(self.version)}, "items": items}
        if method == "PUT":
            if body["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
                return 409, {"message": "the object has been modified"}
            found["spec"]["replicas"] = body["spec"]["replicas"]
            self.put(name, found)
        if path != name:
            kept = {
                "name": found["metadata"]["name"],
                "resourceVersion": found["metadata"]["resourceVersion"],
            }
            return 200, {"kind": "Scale", "metadata": kept, "spec": {"replicas": found["spec"]["replicas"]}}
        return 200, found


@contextmanager
def api_server(directory: Path) -> Iterator[tuple[StandIn, str]]:
    """The stand-in, and the path of a kubeconfig for it."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """It is silent."""

        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path, _, query = self.path.partition("?")
            if "watch=1" in query:
                self.send_response(200)
                self.send_header("Connection", "close")
                self.end_headers()
                stand_in.closing.wait(30)
                self.close_connection = True
                return
            status, answer, wait = stand_in.answer(self.command, path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            if wait:
                self.send_header("Retry-After", str(wait))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_PATCH = do_POST = _any  # noqa: N815 - as http.server calls them

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="api-stand-in", daemon=True)
    thread.start()
    try:
        yield stand_in, kubeconfig(directory, f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        stand_in.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def kubeconfig(directory: Path, server: str) -> str:
    """A kubeconfig for an API server without credentials."""
    path = directory / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )  # fmt: skip
    return str(path)


def deployment(name: str, replicas: int) -> Object:
    """A pool's Deployment whose controller has seen it."""
    return {
        "metadata": {"name": name, "namespace": "rl", "uid": name, "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"pool": name}}},
        "status": {"observedGeneration": 1},
    }


def pod(name: str, pool: str, *, sealed: bool = False) -> Object:
    """A Ready pod of a pool."""
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}
    labels = {"pool": pool, "pod-template-hash": "a"} | ({"envmesh.dev/sealed": "true"} if sealed else {})
    costs = {"controller.kubernetes.io/pod-deletion-cost": "-2000000000"} if sealed else {}
    return {
        "metadata": {
            "name": name, "namespace": "rl", "uid": name, "labels": labels, "annotations": costs,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"kind": "ReplicaSet", "controller": True}],
        },
        "spec": {"nodeName": ""},
        "status": {"phase": "Running", "conditions": [ready]},
    }  # fmt: skip
