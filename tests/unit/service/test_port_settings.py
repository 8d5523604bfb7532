"""Where a service's ports are, as others are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from envmesh_service.port_settings import PortSettings

TLS = {"tls_certificate": Path("tls.crt"), "tls_private_key": Path("tls.key")}


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://127.0.0.1:9000/metrics"),
        ({"metrics_listen": ""}, None),
        ({"metrics_listen": "10.0.0.1:0", **TLS}, "https://10.0.0.1:9000/metrics"),
        ({"metrics_listen": "[::1]:0", "metrics_plaintext": True, **TLS}, "http://[::1]:9000/metrics"),
    ],
)
def test_metrics_are_where_they_are_served(settings: dict[str, object], url: str | None) -> None:
    assert PortSettings(**settings).metrics_url(9000) == url  # type: ignore[arg-type]
