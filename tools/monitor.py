"""``make monitor``: a local mesh, some load, and a real Prometheus beside it; Grafana too, where it is installed.

Everything runs on 127.0.0.1 and ends with Ctrl-C. ``--seconds N`` ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import yaml

import envmesh
from envmesh.errors import EnvmeshError
from envmesh.mesh import Mesh
from envmesh_cli.local_mesh import LocalMesh
from tools.prometheus_beside import free_port, prometheus_beside, trainer_metrics

__all__ = ["grafana_files", "main"]

CHART = Path(__file__).resolve().parents[1] / "helm" / "envmesh"
TARGETS = ("cartpole=gymnasium:CartPole-v1", "frozenlake=gymnasium:FrozenLake-v1")
GRAFANA = ("grafana-server", "grafana")


def main() -> int:
    """Run until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "targets", nargs="*", default=list(TARGETS), help="what the mesh serves, as for `envmesh up`"
    )
    parser.add_argument("--hosts", type=int, default=2, help="hosts for each target")
    parser.add_argument("--seconds", type=float, default=None, help="end after so long")
    parser.add_argument("--no-load", action="store_true", help="play no episodes")
    arguments = parser.parse_args()
    if shutil.which("prometheus") is None:
        print(
            "There is no prometheus on this machine: `apt-get install prometheus`, or prometheus.io/download."
        )
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does: nothing is left behind
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(arguments))
    print("everything has ended")
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="envmesh-monitor-") as name:
        directory = Path(name)
        rules = sorted((CHART / "alerts").glob("*.yaml"))
        async with (
            LocalMesh(arguments.targets, hosts=arguments.hosts) as local,
            envmesh.connect(local.address) as mesh,
            trainer_metrics(mesh) as trainer,
            prometheus_beside(
                directory, {**local.metrics, "trainer": trainer}, rules, interval="2s", port=free_port()
            ) as url,
            _grafana(directory, url) as grafana,
        ):
            _say_where(local, url, grafana)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(arguments.seconds):
                    await (asyncio.Event().wait() if arguments.no_load else _play(mesh))


def _say_where(local: LocalMesh, prometheus: str, grafana: str) -> None:
    print(f"\n  mesh         {local.address}    envmesh top --mesh {local.address}")
    print(f"  live page    {local.page}    the mesh at a glance")
    print(f"  Prometheus   {prometheus}/alerts    and {prometheus}/graph for the queries of docs/metrics.md")
    if grafana:
        print(f"  Grafana      {grafana}/d/envmesh-fleet    open this page; no login is needed")
    else:
        print("  Grafana      not on this machine; with `grafana` on PATH the dashboards would be shown too,")
        print(
            f"               or import {CHART / 'dashboards'}/*.json into any Grafana with this data source"
        )
    print("\n  Ctrl-C ends everything.\n", flush=True)


async def _play(mesh: Mesh) -> None:
    """Play every environment at random, again and again."""
    specs = await mesh.environments()
    while True:
        for spec in specs:
            space = spec.action_space
            with contextlib.suppress(EnvmeshError):
                async for _ in mesh.rollouts(
                    spec.key,
                    lambda observation, space=space: space.sample(),
                    episodes=400,
                    concurrency=random.choice((20, 100, 200)),
                ):
                    await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def _grafana(directory: Path, prometheus: str) -> AsyncIterator[str]:
    """Grafana with the dashboards in it; the empty string where it is not installed."""
    program = next((found for name in GRAFANA if (found := shutil.which(name))), None)
    if program is None:
        yield ""
        return
    port = free_port()
    settings = grafana_files(directory / "grafana", prometheus, port)
    home = _home(program)
    command = [
        program,
        *(["server"] if program.endswith("grafana") else []),
        "--homepath",
        home,
        "--config",
        settings,
    ]
    with (directory / "grafana.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(_answers, f"{url}/api/health"):
                if process.returncode is not None:
                    raise OSError(f"Grafana ended at once: {(directory / 'grafana.log').read_text()[-2000:]}")
                await asyncio.sleep(0.2)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def grafana_files(directory: Path, prometheus: str, port: int) -> str:
    """Write what Grafana needs to know: itself, the data source, the dashboards. Returns its configuration's path."""
    for name in ("datasources", "dashboards"):
        (directory / "provisioning" / name).mkdir(parents=True)
    source = {
        "name": "Prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": prometheus,
        "isDefault": True,
    }
    (directory / "provisioning" / "datasources" / "prometheus.yaml").write_text(
        yaml.safe_dump({"apiVersion": 1, "datasources": [source | {"jsonData": {"timeInterval": "2s"}}]})
    )
    provider = {
        "name": "envmesh",
        "folder": "envmesh",
        "type": "file",
        "options": {"path": str(CHART / "dashboards")},
    }
    (directory / "provisioning" / "dashboards" / "envmesh.yaml").write_text(
        yaml.safe_dump({"apiVersion": 1, "providers": [provider]})
    )
    configuration = directory / "grafana.ini"
    configuration.write_text(
        f"[paths]\ndata = {directory}/data\nlogs = {directory}/logs\nprovisioning = {directory}/provisioning\n"
        f"[server]\nhttp_addr = 127.0.0.1\nhttp_port = {port}\n"
        "[auth.anonymous]\nenabled = true\norg_role = Viewer\n[analytics]\nreporting_enabled = false\n"
        "check_for_updates = false\n"
    )
    return str(configuration)


def _home(program: str) -> str:
    """Where Grafana's own files are."""
    places = (Path("/usr/share/grafana"), Path(program).resolve().parents[1])
    return str(next((place for place in places if (place / "public").is_dir()), places[-1]))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status) == 200
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
