"""``python -m tests.cluster.metrics_api``: ``metrics.k8s.io`` for the real HPA controller, as a metrics server has it.

What the processes of a pod use of the CPU is read from /proc, where their environment says which pod they are of: the
hosts' ``ENVMESH_HOST_HOST_ID`` is the pod's uid.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.cluster.api import Api, Object

WINDOW_SECONDS = 4.0
_TICKS = os.sysconf("SC_CLK_TCK")
_GROUP = "metrics.k8s.io/v1beta1"


class Usage:
    """CPU seconds by pod, and how much of late."""

    def __init__(self) -> None:
        self._before: dict[str, float] = {}
        self._now: dict[str, float] = {}
        self._seconds = WINDOW_SECONDS

    def look_forever(self) -> None:
        """Look every few seconds."""
        at = time.monotonic()
        self._now = self._read()
        while True:
            time.sleep(WINDOW_SECONDS)
            read, now = self._read(), time.monotonic()
            self._before, self._now, self._seconds, at = self._now, read, now - at, now

    def of(self, uid: str) -> float | None:
        """Cores that a pod uses; None: not known yet."""
        if uid not in self._before or uid not in self._now:
            return None
        return max(0.0, self._now[uid] - self._before[uid]) / self._seconds

    def _read(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for process in Path("/proc").iterdir():
            if not process.name.isdecimal():
                continue
            try:
                environ = (process / "environ").read_bytes().split(b"\0")
                uid = next(
                    (
                        e.partition(b"=")[2].decode()
                        for e in environ
                        if e.startswith(b"ENVMESH_HOST_HOST_ID=")
                    ),
                    "",
                )
                if uid:
                    fields = (process / "stat").read_text().rpartition(")")[2].split()
                    found[uid] = found.get(uid, 0.0) + (int(fields[11]) + int(fields[12])) / _TICKS
            except OSError:
                continue
        return found


def pod_metrics(pod: Object, cores: float) -> Object:
    """One pod's, with one container."""
    usage = {"cpu": f"{int(cores * 1e9)}n", "memory": "100Mi"}
    return {
        "metadata": {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]},
        "timestamp": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "window": f"{WINDOW_SECONDS:g}s",
        "containers": [{"name": pod["spec"]["containers"][0]["name"], "usage": usage}],
    }


def handler(api: Api, usage: Usage) -> type[BaseHTTPRequestHandler]:
    """What answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            parts = url.path.strip("/").split("/")
            if len(parts) == 6 and parts[3] == "namespaces" and parts[5] == "pods":
                query = {
                    key: value[0] for key, value in parse_qs(url.query).items() if key == "labelSelector"
                }
                pods = api.items(f"/api/v1/namespaces/{parts[4]}/pods", **query)
                known = [(pod, usage.of(pod["metadata"]["uid"])) for pod in pods]
                items = [pod_metrics(pod, cores) for pod, cores in known if cores is not None]
                self._say({"kind": "PodMetricsList", "apiVersion": _GROUP, "metadata": {}, "items": items})
            elif url.path.rstrip("/") == f"/apis/{_GROUP}":
                pods_ = {
                    "name": "pods",
                    "singularName": "",
                    "namespaced": True,
                    "kind": "PodMetrics",
                    "verbs": ["get", "list"],
                }
                self._say(
                    {
                        "kind": "APIResourceList",
                        "apiVersion": "v1",
                        "groupVersion": _GROUP,
                        "resources": [pods_],
                    }
                )
            else:
                self._say({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}, 404)

        def _say(self, body: Any, status: int = 200) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Nothing."""

    return Handler


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--authority", type=Path, required=True)
    parser.add_argument("--token", required=True)
    arguments = parser.parse_args()
    usage = Usage()
    threading.Thread(target=usage.look_forever, name="look", daemon=True).start()
    api = Api(arguments.address, 6443, arguments.authority, arguments.token)
    server = ThreadingHTTPServer((arguments.address, arguments.port), handler(api, usage))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.certificate, arguments.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
