"""Requests for slots that are in somebody's trace: the broker's part of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from envmesh.spans import SERVER, TRACEPARENT, Attributes, Spans, fail, remote
from envmesh.v1 import placement_pb2
from envmesh_service.asks import Ask

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["BrokerTraces", "Placing", "placing_of"]

MOST_NOTES = 100


class Placing:
    """One request, traced or not."""

    __slots__ = ("_notes", "_span")

    def __init__(self, span: Span | None) -> None:
        self._span = span
        self._notes = 0

    def granted(self, grant: placement_pb2.Grant) -> None:
        """Slots went out."""
        if self._span is not None:
            hosts = sorted({lease.host_id for lease in grant.leases})
            self._note("granted", {"envmesh.hosts": hosts[:16], "envmesh.remaining": grant.remaining})

    def queued(self, status: placement_pb2.QueueStatus) -> None:
        """It waits."""
        if self._span is not None:
            told = {"envmesh.position": status.position, "envmesh.reason": status.reason}
            self._note("queued", told)

    def _note(self, name: str, attributes: dict[str, Any]) -> None:
        self._notes += 1
        if self._span is not None and self._notes <= MOST_NOTES:
            self._span.add_event(name, attributes)


class BrokerTraces:
    """The traces of a broker."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    def begin(self, traceparent: str, attributes: Attributes) -> Span | None:
        """The broker's part of a trace, where that is sampled."""
        parent = remote(traceparent)
        return (
            None
            if parent is None
            else self._spans.begin("place", kind=SERVER, parent=parent, attributes=attributes)
        )

    async def close(self) -> None:
        """Send what is left, within two seconds."""
        await self._spans.close()


@contextlib.contextmanager
def placing_of(
    traces: BrokerTraces | None, metadata: Sequence[tuple[str, Any]], ask: Ask, tenant: str
) -> Iterator[Placing]:
    """A request from its arrival to its end; in a trace, if its caller has one and this broker keeps any."""
    traceparent = next((str(value) for key, value in metadata if key == TRACEPARENT), "")
    span = None
    if traces is not None and traceparent:
        what: Attributes = {
            "envmesh.environment": ask.environment, "envmesh.slots": ask.count, "envmesh.tenant": tenant
        }  # fmt: skip
        span = traces.begin(traceparent, what)
    try:
        yield Placing(span)
    except Exception as error:
        if span is not None:
            fail(span, str(error)[:500])
        raise
    finally:
        if span is not None:
            span.end()
