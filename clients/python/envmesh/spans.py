"""Spans of this process on their way to a collector, over OTLP/gRPC. The one importer of OpenTelemetry.

It is an extra (``pip install 'envmesh[traces]'``), and nothing of it is imported before somebody wants traces. Who may
be traced is decided elsewhere: what gets here is kept. Spans leave in batches from a thread of their own; where the
collector is slow or away, a bounded queue overflows and nothing else waits.

What travels between processes is W3C's ``traceparent``, as a call's metadata or a field of Reset and Resume.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from envmesh.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, SpanKind, Tracer

__all__ = [
    "CLIENT",
    "INTERNAL",
    "SERVER",
    "TRACEPARENT",
    "Spans",
    "collector_mistake",
    "fail",
    "nanoseconds",
    "remote",
    "traceparent_of",
]

TRACEPARENT = "traceparent"
"""The metadata's key."""

CLIENT, SERVER, INTERNAL = "CLIENT", "SERVER", "INTERNAL"

BATCH_SECONDS = 1.0
MOST_WAITING = 8_192
"""Spans that wait for the collector; beyond, they are dropped."""
EXPORT_SECONDS = 5.0
MOST_PROCESSES = 256

_COLLECTOR = re.compile(r"https?://[^\s/]+:\d+/?")
_SAMPLED = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]")

Attributes = Mapping[str, str | int | float | bool]


class Spans:
    """The spans of a process that is known as ``service``. ``collector`` is ``http://host:port``, or ``https``; what
    OpenTelemetry's own variables say of certificates and headers (``OTEL_EXPORTER_OTLP_…``) counts too."""

    def __init__(self, collector: str, service: str, instance: str) -> None:
        if not _COLLECTOR.fullmatch(collector):
            raise ValueError(
                f"{collector!r} is no collector's address; http://host:port or https://host:port is right"
            )
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise MissingExtra("traces need OpenTelemetry: pip install 'envmesh[traces]'") from None
        self._instance = instance
        self._ids = _TraceIds()
        self._exporter = OTLPSpanExporter(endpoint=collector, timeout=EXPORT_SECONDS)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=MOST_WAITING,
            schedule_delay_millis=BATCH_SECONDS * 1e3,
            export_timeout_millis=EXPORT_SECONDS * 1e3,
        )
        self._tracer = self._tracer_of(service, instance)
        self._others: OrderedDict[tuple[str, str], Tracer] = OrderedDict()
        self._closed = False

    def begin(
        self,
        name: str,
        *,
        kind: str = INTERNAL,
        parent: SpanContext | None = None,
        trace_id: bytes = b"",
        at: int | None = None,
        attributes: Attributes | None = None,
        links: Sequence[SpanContext] = (),
    ) -> Span:
        """A span that begins now, or ``at`` so many nanoseconds since 1970. Without a ``parent`` it is the first of its
        trace, which has this ``trace_id`` or any."""
        return self._begin(self._tracer, name, kind, parent, trace_id, at, attributes, links)

    def note(
        self,
        name: str,
        begun: int,
        ended: int,
        *,
        parent: SpanContext,
        kind: str = INTERNAL,
        attributes: Attributes | None = None,
        error: str = "",
        process: tuple[str, str] | None = None,
    ) -> SpanContext:
        """A span that is over. ``process`` is the (service, instance) of another process, for which this one speaks."""
        tracer = self._tracer if process is None else self._tracer_for(process)
        span = self._begin(tracer, name, kind, parent, b"", begun, attributes, ())
        if error:
            fail(span, error)
        span.end(max(begun, ended))
        return span.get_span_context()

    async def close(self, seconds: float = 2.0) -> None:
        """Send what waits, for so long at most, and end the thread."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._close, seconds)

    def _close(self, seconds: float) -> None:
        # The processor's end sends what waits, however long that takes; the exporter's end lets nothing more wait.
        patience = threading.Timer(seconds, self._exporter.shutdown)
        patience.daemon = True
        patience.start()
        self._processor.shutdown()  # type: ignore[no-untyped-call]
        patience.cancel()

    def _begin(
        self,
        tracer: Tracer,
        name: str,
        kind: str,
        parent: SpanContext | None,
        trace_id: bytes,
        at: int | None,
        attributes: Attributes | None,
        links: Sequence[SpanContext],
    ) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, set_span_in_context

        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(parent), context)
        self._ids.following = trace_id
        kinds: Mapping[str, SpanKind] = {CLIENT: SpanKind.CLIENT, SERVER: SpanKind.SERVER}
        return tracer.start_span(
            name,
            context=context,
            kind=kinds.get(kind, SpanKind.INTERNAL),
            start_time=at,
            attributes=attributes,
            links=[Link(link) for link in links],
        )

    def _tracer_for(self, process: tuple[str, str]) -> Tracer:
        tracer = self._others.get(process)
        if tracer is None:
            while len(self._others) >= MOST_PROCESSES:
                self._others.popitem(last=False)
            tracer = self._others[process] = self._tracer_of(*process)
        return tracer

    def _tracer_of(self, service: str, instance: str) -> Tracer:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        ids: Any = self._ids  # an IdGenerator by its methods
        resource = Resource.create({"service.name": service, "service.instance.id": instance})
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=resource,
            id_generator=ids,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._processor)
        return provider.get_tracer("envmesh")


class _TraceIds:
    """OpenTelemetry's source of identifiers: the next trace has the id that is wanted for it."""

    def __init__(self) -> None:
        self.following = b""

    def generate_span_id(self) -> int:
        """Any but 0."""
        return secrets.randbits(64) or 1

    def generate_trace_id(self) -> int:
        """The one that is wanted, or any but 0."""
        wanted, self.following = self.following, b""
        return int.from_bytes(wanted) or secrets.randbits(128) or 1

    def is_trace_id_random(self) -> bool:
        """They are: an episode's id is random too."""
        return True


def remote(traceparent: str) -> SpanContext | None:
    """The span that a ``traceparent`` names, where it is one and is sampled."""
    if not _SAMPLED.fullmatch(traceparent):
        return None
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))


def traceparent_of(context: SpanContext) -> str:
    """W3C's header of a sampled span."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def fail(span: Span, why: str) -> None:
    """What the span is about did not work out."""
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR, why)


def nanoseconds(moment: float) -> int:
    """A moment of the performance counter, in nanoseconds since 1970."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)


def collector_mistake(collector: str) -> tuple[str, str] | None:
    """What is wrong with a collector, and what would be right; None where nothing is."""
    if not _COLLECTOR.fullmatch(collector):
        return f"{collector!r} is no collector's address", "http://host:port or https://host:port is right"
    if importlib.util.find_spec("opentelemetry") is None:
        return "OpenTelemetry is not installed", "pip install 'envmesh[traces]', or leave it empty"
    return None
