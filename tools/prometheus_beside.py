"""A real Prometheus beside a local mesh, for as long as an ``async with`` lasts."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from envmesh.mesh import Mesh
from envmesh.metrics import ClientMetrics

__all__ = ["free_port", "prometheus_beside", "trainer_metrics"]

START_SECONDS = 30.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def trainer_metrics(mesh: Mesh) -> AsyncIterator[str]:
    """What the trainer here sees, for Prometheus: the URL. A trainer of yours does the same."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ClientMetrics(mesh))  # type: ignore[arg-type]  # a collector by its shape
    ProcessCollector(registry=registry)
    server, thread = await asyncio.to_thread(start_http_server, 0, "127.0.0.1", registry)
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join(timeout=5)


@contextlib.asynccontextmanager
async def prometheus_beside(
    directory: Path, targets: Mapping[str, str], rule_files: Iterable[Path], *, interval: str, port: int
) -> AsyncIterator[str]:
    """Its URL. It scrapes ``targets`` (URLs of /metrics, by name) every ``interval``; each is a pod of that name.

    Raises:
        OSError: it cannot be started, or ends at once; the message has its log.
    """
    configuration = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(path) for path in rule_files],
        "scrape_configs": [
            {
                "job_name": f"envmesh-{name}",
                "static_configs": [
                    {
                        "targets": [re.sub(r"^http://|/metrics$", "", url)],
                        "labels": {"cluster": "local", "namespace": "local", "pod": name},
                    }
                ],
            }
            for name, url in targets.items()
        ],
    }
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    command = (
        "prometheus", f"--config.file={directory}/prometheus.yaml", f"--storage.tsdb.path={directory}/prometheus",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn", "--enable-feature=exemplar-storage",
    )  # fmt: skip
    log = directory / "prometheus.log"
    with log.open("wb") as written:
        process = await asyncio.create_subprocess_exec(*command, stdout=written, stderr=written)
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await asyncio.to_thread(_ready, url):
                if process.returncode is not None:
                    raise OSError(f"prometheus ended at once: {log.read_text()[-2000:]}")
                await asyncio.sleep(0.05)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as response:
            return int(response.status) == 200
    except (OSError, urllib.error.HTTPError):
        return False
