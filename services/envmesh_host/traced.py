"""Episodes that are traced on this host: those whose client says so, and no more than so many at once.

A traced copy goes the engine's long way, where each command passes ``settled``; nobody else pays more than a look at
an attribute there. Its spans: the copy's life here, each of its commands within that, and within each command the
environment's own time, which is the worker process's span where one runs it. Workers hold no connections: they note
when they began in the memory they share with the host, which speaks for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from envmesh.errors import Refusal
from envmesh.spans import SERVER, TRACEPARENT, Attributes, Spans, fail, nanoseconds, remote
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.copy import EpisodeCopy
from envmesh_host.isolation.job import STEP, during
from envmesh_host.isolation.pool import Seat

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

__all__ = ["CopyTrace", "HostTraces", "traceparent_in"]

MOST_COMMANDS = 1_000
"""Spans of one copy's commands; the rest are counted."""

Show = Callable[[EpisodeCopy, int, float, str], None]
"""Hears of each traced command: copy, kind, the environment's seconds, trace id."""


class HostTraces:
    """The traces of a host. ``most`` copies are traced at once; ``show`` hears of each command."""

    def __init__(self, spans: Spans, host_id: str, most: int, show: Show) -> None:
        self._spans, self._host_id, self._most, self._show = spans, host_id, most, show
        self._open = 0

    def begin(self, copy: EpisodeCopy, traceparent: str) -> None:
        """A copy begins to live here; it is traced if its client wants that and there is room."""
        parent = remote(traceparent)
        if parent is None or self._open >= self._most:
            return
        self._open += 1
        attributes: Attributes = {
            "envmesh.episode": copy.episode_id.hex(),
            "envmesh.environment": copy.environment.key,
            "envmesh.lease": copy.holding.lease_id.hex(),
            "envmesh.host": self._host_id,
            "envmesh.epoch": f"{copy.epoch >> 32}.{copy.epoch & 0xFFFFFFFF}",
        }
        span = self._spans.begin("copy", kind=SERVER, parent=parent, attributes=attributes)
        copy.trace = CopyTrace(self, span)

    async def close(self) -> None:
        """Send what is left, within two seconds."""
        await self._spans.close()

    def note(self, copy: EpisodeCopy, parent: SpanContext, kind: int, index: int, begun: float, seconds: float,
             result: Any) -> None:  # fmt: skip
        """A command is over. ``begun`` is on the performance counter, ``seconds`` the environment's time."""
        ended = time.time_ns()
        start = nanoseconds(begun)
        name = during(kind, index)
        error = f"{result.reason}: {Exception.__str__(result)}"[:500] if isinstance(result, Refusal) else ""
        command = self._spans.note(name, start, ended, parent=parent, error=error)
        own, process = self._environment(copy, start, ended, seconds)
        until = min(ended, own + int(seconds * 1e9))
        self._spans.note(f"environment {name}", own, until, parent=command, error=error, process=process)
        self._show(copy, kind, seconds, f"{parent.trace_id:032x}")

    def closed(self) -> None:
        """A copy that was traced is gone."""
        self._open -= 1

    def _environment(
        self, copy: EpisodeCopy, start: int, ended: int, seconds: float
    ) -> tuple[int, tuple[str, str] | None]:
        """When the environment's code was called, and in which process if not in this one."""
        seat = copy.seat
        if isinstance(seat, Seat) and seat.worker is not None:
            record = seat.worker.record
            process = "envmesh-worker", f"{self._host_id}/{record.process_id}"
            began = record.began(seat.handle)
            if began:
                return time.time_ns() - int((time.monotonic() - began) * 1e9), process
            return ended - int(seconds * 1e9), process
        return (start if copy.environment.served is not None else ended - int(seconds * 1e9)), None


class CopyTrace:
    """The trace of one copy, for as long as it lives here."""

    __slots__ = ("_commands", "_context", "_span", "_traces")

    def __init__(self, traces: HostTraces, span: Span) -> None:
        self._traces, self._span = traces, span
        self._context = span.get_span_context()
        self._commands = 0

    @property
    def trace_id(self) -> str:
        """As it stands in logs."""
        return f"{self._context.trace_id:032x}"

    def note(
        self, copy: EpisodeCopy, kind: int, index: int, begun: float, seconds: float | None, result: Any
    ) -> None:
        """A command is over."""
        self._commands += 1
        if self._commands > MOST_COMMANDS:
            return
        seconds = seconds or 0.0
        began = begun or time.perf_counter() - seconds
        self._traces.note(copy, self._context, kind, index if kind == STEP else 0, began, seconds, result)

    def end(self, copy: EpisodeCopy, refusal: Refusal | None) -> None:
        """The copy is gone."""
        self._span.set_attribute("envmesh.step", max(0, copy.index))
        if self._commands > MOST_COMMANDS:
            self._span.set_attribute("envmesh.commands_left_out", self._commands - MOST_COMMANDS)
        why = copy.row if copy.failed else refusal
        if why is not None:
            fail(self._span, f"{why.reason}: {Exception.__str__(why)}"[:500])
        self._span.end()
        self._traces.closed()


def traceparent_in(request: pb.ResetRequest | pb.ResumeRequest, context: Any) -> str:
    """The trace of a unary call: its field, or else its metadata."""
    if request.traceparent:
        return request.traceparent
    for key, value in context.invocation_metadata() or ():
        if key == TRACEPARENT:
            return str(value)
    return ""
