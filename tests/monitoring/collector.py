"""A collector of traces: the real service of OpenTelemetry's protocol on a real port, which keeps what it is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

__all__ = ["Collector", "Span", "collector"]


@dataclass(frozen=True)
class Span:
    """One span as it came, and whose it is."""

    service: str
    instance: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    begun: int
    ended: int
    attributes: dict[str, Any]
    events: tuple[str, ...]
    links: tuple[str, ...]
    error: str

    def within(self, other: Span, slack: int = 0) -> bool:
        """Whether it lies within another one, give or take some nanoseconds."""
        return other.begun - slack <= self.begun <= self.ended <= other.ended + slack


def plain(value: Any) -> Any:
    which = value.WhichOneof("value")
    return (
        [plain(each) for each in value.array_value.values]
        if which == "array_value"
        else getattr(value, which)
    )


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.url = ""
        self._arrived = asyncio.Condition()

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            whose = {entry.key: plain(entry.value) for entry in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [read(span, whose) for span in scope.spans]
        async with self._arrived:
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def until(self, there: Callable[[list[Span]], bool], seconds: float = 20.0) -> list[Span]:
        """All spans, once that holds of them. Raises: TimeoutError."""
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: there(self.spans))
        return list(self.spans)


def read(span: Any, whose: dict[str, Any]) -> Span:
    return Span(
        service=whose["service.name"],
        instance=whose["service.instance.id"],
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        begun=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes={entry.key: plain(entry.value) for entry in span.attributes},
        events=tuple(event.name for event in span.events),
        links=tuple(link.trace_id.hex() for link in span.links),
        error=span.status.message if span.status.code == span.status.STATUS_CODE_ERROR else "",
    )


@contextlib.asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """One that listens."""
    server, kept = grpc.aio.server(), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)
    kept.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield kept
    finally:
        await server.stop(0.2)
