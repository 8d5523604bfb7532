"""Metrics: instruments that cost the hot path a list append, and the port they are read from.

The one importer of prometheus_client. The instruments are those of ``envmesh.instruments``. Everything but ``Exporter``
belongs to one thread, the event loop's; a scrape asks that thread for a copy and writes the text in its own.

Names are those of docs/metrics.md. Seconds and bytes; no identifier is ever a label; known label sets start at 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, start_http_server
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from envmesh.instruments import (
    COARSE_DURATION_BUCKETS,
    DURATION_BUCKETS,
    LENGTH_BUCKETS,
    REWARD_BUCKETS,
    RPC_BUCKETS,
    SLOW_DURATION_BUCKETS,
    BoundedLabel,
    Counter,
    CounterSeries,
    Exemplar,
    Gauge,
    Histogram,
    HistogramSeries,
)
from envmesh.metrics import Instruments
from envmesh_service.build_info import build_info
from envmesh_service.tls import Identity, TlsFiles, read_identity
from envmesh_service.watched import Watched

__all__ = [
    "COARSE_DURATION_BUCKETS",
    "DURATION_BUCKETS",
    "LENGTH_BUCKETS",
    "REWARD_BUCKETS",
    "RPC_BUCKETS",
    "SLOW_DURATION_BUCKETS",
    "BoundedLabel",
    "Counter",
    "CounterSeries",
    "Exemplar",
    "Exporter",
    "Gauge",
    "Histogram",
    "HistogramSeries",
    "Registry",
    "read_samples",
]


class Registry(Instruments):
    """The metrics of one process."""

    def __init__(self) -> None:
        super().__init__()
        self._prometheus = CollectorRegistry(auto_describe=False)
        self._prometheus.register(self)  # type: ignore[arg-type]  # a Family has what it reads of a Metric
        ProcessCollector(registry=self._prometheus)
        GCCollector(registry=self._prometheus)
        info = build_info().labels()
        self.gauge("envmesh_build_info", "What runs here.", tuple(info), lambda: {tuple(info.values()): 1.0})

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._prometheus)


class Exporter:
    """The HTTP port that Prometheus scrapes, at ``/metrics``. Runs in a thread of its own while it is open."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._server: WSGIServer | None = None
        self._serving: threading.Thread | None = None
        self._tls: Watched[Identity] | None = None
        self.port = 0

    def start(self, host: str, port: int, tls: TlsFiles | None = None) -> None:
        """Open the port (0 picks one), with a certificate where there are ``tls`` files. To be called in the event loop
        whose metrics they are.

        Raises:
            OSError: the port cannot be had; the message says which and why. ValueError: the certificate is of no use.
        """
        self._registry.serve_from(asyncio.get_running_loop())
        files: dict[str, Any] = {}
        if tls is not None:
            self._tls = Watched(
                "the certificate of the metrics",
                tls.paths,
                lambda: _read_usable(tls),
                lambda _: self._renew(tls),
            )
            files = {"certfile": str(tls.certificate), "keyfile": str(tls.private_key)}
        try:
            self._server, self._serving = start_http_server(port, host, self._registry._prometheus, **files)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot serve metrics on {host}:{port}: {error.strerror or error}"
            ) from None
        self.port = self._server.server_port

    def refresh(self) -> None:
        """Take up a certificate that was renewed."""
        if self._tls is not None:
            self._tls.refresh()

    def _renew(self, tls: TlsFiles) -> None:
        socket: Any = self._server.socket if self._server is not None else None
        if socket is not None:
            socket.context.load_cert_chain(tls.certificate, tls.private_key)

    async def stop(self) -> None:
        """Close the port and end the thread."""
        server, serving = self._server, self._serving
        self._server = self._serving = None
        if server is not None and serving is not None:
            await asyncio.to_thread(_close, server, serving)


async def flush_periodically(registry: Registry, seconds: float = 1.0) -> None:
    """Bound the lists of the hot paths, until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        registry.flush()


def _read_usable(tls: TlsFiles) -> Identity:
    """As ``read_identity``, of what OpenSSL takes as well: it asks for longer keys, and says so in this context rather
    than in the one that serves.

    Raises:
        ValueError, OSError: as ``read_identity``.
    """
    identity = read_identity(tls)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.private_key)
    except ssl.SSLError as error:
        raise ValueError(f"OpenSSL does not take the certificate in {tls.certificate}: {error}") from None
    return identity


def _close(server: WSGIServer, serving: threading.Thread) -> None:
    server.shutdown()
    with contextlib.suppress(OSError):
        server.server_close()
    serving.join(timeout=2.0)


def read_samples(text: str) -> Iterable[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample of a scrape.

    Raises:
        ValueError: it is no Prometheus text.
    """
    return (
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )
