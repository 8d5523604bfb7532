"""Metrics: instruments that cost the hot path a list append, and the port they are read from.

The one importer of prometheus_client. Its own instruments take a lock and a dictionary look-up for each event, so the
ones here collect events in plain lists and counts, and hand over finished families when somebody scrapes. Everything
but ``Exporter`` belongs to one thread, the event loop's; a scrape asks that thread for a copy and writes the text in
its own.

Names are those of docs/metrics.md. Seconds and bytes; no identifier is ever a label; known label sets start at 0.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol
from wsgiref.simple_server import WSGIServer

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, start_http_server
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from envmesh_service.build_info import build_info
from envmesh_service.tls import Identity, TlsFiles, read_identity
from envmesh_service.watched import Watched

__all__ = [
    "DURATION_BUCKETS",
    "LENGTH_BUCKETS",
    "REWARD_BUCKETS",
    "BoundedLabel",
    "Counter",
    "CounterSeries",
    "Exporter",
    "Gauge",
    "Histogram",
    "HistogramSeries",
    "Registry",
]

DURATION_BUCKETS = tuple(float(f"{m}e{e}") for e in range(-5, 3) for m in (1, 2.5, 5))
"""Seconds: 10 µs to 500 s in steps of 1, 2.5, 5."""

_MAGNITUDES = (*(float(f"{m}e{e}") for e in range(-2, 4) for m in (1, 2, 5)), 10_000.0)
REWARD_BUCKETS = (*(-m for m in reversed(_MAGNITUDES)), 0.0, *_MAGNITUDES)
"""Signed: 0 and ±0.01 to ±10,000 in steps of 1, 2, 5."""

LENGTH_BUCKETS = tuple(float(2**n) for n in range(17))
"""Counts: the powers of 2 up to 65,536."""

_FEW = 32
"""Fewer values than this are bucketed one by one, more with numpy."""

Labels = tuple[str, ...]


class _Instrument(Protocol):
    def snapshot(self) -> Callable[[], Iterable[Metric]]:
        """Copy what is needed; the result builds families from the copy, in any thread."""
        ...

    def flush(self) -> None:
        """Take in what the hot path left in lists."""
        ...


class CounterSeries:
    """One counter with its labels. ``value`` may be added to directly."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Count ``amount`` more, at least 0."""
        self.value += amount


class Counter:
    """Counters of one name, one for each set of label values."""

    def __init__(self, name: str, documentation: str, labels: Labels) -> None:
        self.name, self.documentation, self.label_names = name.removesuffix("_total"), documentation, labels
        self._series: dict[Labels, CounterSeries] = {}

    def labels(self, *values: str) -> CounterSeries:
        """The counter of these label values; keep it where it is used often."""
        series = self._series.get(values)
        if series is None:
            series = self._series[_checked(values, self.label_names)] = CounterSeries()
        return series

    def add(self, amount: float = 1.0, *values: str) -> None:
        """Count ``amount`` more on these label values."""
        self.labels(*values).value += amount

    def flush(self) -> None:
        """Nothing waits."""

    def snapshot(self) -> Callable[[], Iterable[Metric]]:
        """A copy, as a family still to be built."""
        rows = [(values, series.value) for values, series in self._series.items()]

        def build() -> Iterable[Metric]:
            family = Metric(self.name, self.documentation, "counter")
            for values, value in rows:
                family.add_sample(
                    f"{self.name}_total", dict(zip(self.label_names, values, strict=True)), value
                )
            return (family,)

        return build


class HistogramSeries:
    """One histogram with its labels. The hot path appends to ``pending``; ``flush`` buckets what is there."""

    __slots__ = ("_bounds", "_bounds_array", "counts", "gain", "loss", "pending")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._bounds_array = np.asarray(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.gain = self.loss = 0.0
        self.pending: list[float] = []

    def observe(self, value: float) -> None:
        """Take in one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        if value >= 0:
            self.gain += value
        else:
            self.loss -= value

    def observe_many(self, values: Sequence[float] | NDArray[np.float64]) -> None:
        """Take in many finite values at once; an array of float64 is taken as it is."""
        if len(values) < _FEW:
            for value in values:
                self.observe(value)
            return
        array = np.asarray(values, dtype=np.float64)
        bins = np.bincount(self._bounds_array.searchsorted(array), minlength=len(self.counts))
        self.counts = [old + new for old, new in zip(self.counts, bins.tolist(), strict=True)]
        gain = float(array.sum(where=array > 0))
        self.gain += gain
        self.loss -= float(array.sum()) - gain

    def add_counts(self, counts: Sequence[int], total: float) -> None:
        """Take in values that were bucketed elsewhere: one count a bucket, the last beyond every bound; their sum."""
        self.counts = [old + new for old, new in zip(self.counts, counts, strict=True)]
        self.gain += max(total, 0.0)
        self.loss += max(-total, 0.0)

    def flush(self) -> None:
        """Take in ``pending``."""
        if self.pending:
            values, self.pending[:] = self.pending[:], ()
            self.observe_many(values)


class Histogram:
    """Histograms of one name. A signed one has ``_gain_total`` and ``_loss_total`` in place of a sum."""

    def __init__(self, name: str, documentation: str, labels: Labels, bounds: Sequence[float]) -> None:
        self.name, self.documentation, self.label_names = name, documentation, labels
        self.bounds = tuple(bounds)
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError(f"the buckets of {name} must rise")
        self._edges = (*(_edge(bound) for bound in self.bounds), "+Inf")
        self._signed = self.bounds[0] < 0
        self._series: dict[Labels, HistogramSeries] = {}

    def labels(self, *values: str) -> HistogramSeries:
        """The histogram of these label values; keep it where it is used often."""
        series = self._series.get(values)
        if series is None:
            series = self._series[_checked(values, self.label_names)] = HistogramSeries(self.bounds)
        return series

    def flush(self) -> None:
        """Take in what waits in any series."""
        for series in self._series.values():
            series.flush()

    def snapshot(self) -> Callable[[], Iterable[Metric]]:
        """A copy, as families still to be built."""
        rows = [(v, list(accumulate(s.counts)), s.gain, s.loss) for v, s in self._series.items()]
        return lambda: self._families(rows)

    def _families(self, rows: list[tuple[Labels, list[int], float, float]]) -> Iterable[Metric]:
        family = Metric(self.name, self.documentation, "histogram")
        gain = Metric(f"{self.name}_gain", f"Sum of the positive values: {self.documentation}", "counter")
        loss = Metric(
            f"{self.name}_loss",
            f"Sum of the negative values, as a positive number: {self.documentation}",
            "counter",
        )
        for values, cumulative, gained, lost in rows:
            labels = dict(zip(self.label_names, values, strict=True))
            for edge, count in zip(self._edges, cumulative, strict=True):
                family.add_sample(f"{self.name}_bucket", {**labels, "le": edge}, count)
            family.add_sample(f"{self.name}_count", labels, cumulative[-1])
            if self._signed:
                gain.add_sample(f"{self.name}_gain_total", labels, gained)
                loss.add_sample(f"{self.name}_loss_total", labels, lost)
            else:
                family.add_sample(f"{self.name}_sum", labels, gained - lost)
        return (family, gain, loss) if self._signed else (family,)


class Gauge:
    """Numbers that are looked up when somebody scrapes, in the event loop's thread."""

    def __init__(
        self, name: str, documentation: str, labels: Labels, read: Callable[[], Mapping[Labels, float]]
    ) -> None:
        self.name, self.documentation, self.label_names, self._read = name, documentation, labels, read

    def flush(self) -> None:
        """Nothing waits."""

    def snapshot(self) -> Callable[[], Iterable[Metric]]:
        """The numbers now, as a family still to be built."""
        rows = dict(self._read())

        def build() -> Iterable[Metric]:
            family = Metric(self.name, self.documentation, "gauge")
            for values, value in rows.items():
                family.add_sample(self.name, dict(zip(self.label_names, values, strict=True)), value)
            return (family,)

        return build


class BoundedLabel:
    """Keeps the values of one label within ``limit``: the first ones keep their names, the rest are ``other``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, str] = {}
        self.overflowed = 0
        """How many different values became ``other``, counted up to 10,000."""
        self._others: set[str] = set()

    def __call__(self, value: str) -> str:
        """The label for a value."""
        known = self._known.get(value)
        if known is not None:
            return known
        if len(self._known) < self._limit:
            self._known[value] = value
            return value
        if len(self._others) < 10_000:
            self._others.add(value)
            self.overflowed = len(self._others)
        return "other"


class Registry:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._instruments: dict[str, _Instrument] = {}
        self._prometheus = CollectorRegistry(auto_describe=False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        self._prometheus.register(self)
        ProcessCollector(registry=self._prometheus)
        GCCollector(registry=self._prometheus)
        info = build_info().labels()
        self.gauge("envmesh_build_info", "What runs here.", tuple(info), lambda: {tuple(info.values()): 1.0})

    def counter(
        self, name: str, documentation: str, labels: Labels = (), known: Iterable[Labels] = ()
    ) -> Counter:
        """New counters; those of ``known`` label values start at 0 now."""
        counter = Counter(name, documentation, labels)
        self._add(name, counter)
        for values in known if labels else ((),):
            counter.labels(*values)
        return counter

    def histogram(
        self,
        name: str,
        documentation: str,
        labels: Labels = (),
        buckets: Sequence[float] = DURATION_BUCKETS,
        known: Iterable[Labels] = (),
    ) -> Histogram:
        """New histograms; those of ``known`` label values start at 0 now."""
        histogram = Histogram(name, documentation, labels, buckets)
        self._add(name, histogram)
        for values in known if labels else ((),):
            histogram.labels(*values)
        return histogram

    def gauge(
        self, name: str, documentation: str, labels: Labels, read: Callable[[], Mapping[Labels, float]]
    ) -> Gauge:
        """New gauges, read at each scrape: label values to number."""
        gauge = Gauge(name, documentation, labels, read)
        self._add(name, gauge)
        return gauge

    def flush(self) -> None:
        """Take in what the hot paths left in lists. To be called every second or so, which bounds the lists."""
        for instrument in self._instruments.values():
            instrument.flush()

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._prometheus)

    def serve_from(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let other threads collect: they ask this loop, which owns the numbers."""
        self._loop, self._thread = loop, threading.get_ident()

    def collect(self) -> Iterable[Metric]:
        """What prometheus_client asks for at a scrape."""
        return [family for build in self._copies() for family in build()]

    def _add(self, name: str, instrument: _Instrument) -> None:
        if name in self._instruments:
            raise ValueError(f"there is a metric {name} already")
        self._instruments[name] = instrument

    def _copies(self) -> list[Callable[[], Iterable[Metric]]]:
        loop = self._loop
        if loop is None or loop.is_closed() or threading.get_ident() == self._thread:
            return self._copy()
        copies: concurrent.futures.Future[list[Callable[[], Iterable[Metric]]]] = concurrent.futures.Future()

        def copy() -> None:
            if copies.set_running_or_notify_cancel():
                try:
                    copies.set_result(self._copy())
                except Exception as error:
                    copies.set_exception(error)

        loop.call_soon_threadsafe(copy)
        return copies.result(timeout=5.0)

    def _copy(self) -> list[Callable[[], Iterable[Metric]]]:
        self.flush()
        return [instrument.snapshot() for instrument in self._instruments.values()]


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
                lambda: read_identity(tls),
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


def _close(server: WSGIServer, serving: threading.Thread) -> None:
    server.shutdown()
    with contextlib.suppress(OSError):
        server.server_close()
    serving.join(timeout=2.0)


def _checked(values: Labels, names: Labels) -> Labels:
    if len(values) != len(names):
        raise ValueError(f"labels {names} need {len(names)} values; got {values}")
    return values


def _edge(bound: float) -> Any:
    return f"{bound:.10g}"
