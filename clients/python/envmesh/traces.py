"""A trainer's traces: ``ClientTraces(mesh, "http://collector:4317", share=0.01)``; needs ``envmesh[traces]``.

An episode is a trace, and the trace's id is the episode's: whoever has one from a log or a recording has the other.
``share`` of all episodes are traced; which, their ids decide, so a trainer that goes on with an episode decides alike.
Brokers, hosts and worker processes follow, where they have a collector too. Episodes that are not traced cost nothing
a step, and a client without traces nothing at all. docs/traces.md shows what can be read off a trace.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from envmesh.spans import CLIENT, TRACEPARENT, Attributes, Spans, fail, nanoseconds, remote, traceparent_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from envmesh.mesh import Mesh
    from envmesh.outcome import Resume

__all__ = ["ClientTraces", "EpisodeTrace", "with_traceparent"]

MOST_COMMANDS = 1_000
"""Spans of one episode's commands; the rest are counted."""


class ClientTraces:
    """The traces of one client. To be made where the client lives, once for each client; ``mesh.close`` sends what is
    left.

    Raises:
        ValueError: the collector's address, or a ``share`` that is not from 0 to 1.
        MissingExtra: OpenTelemetry is not installed.
    """

    def __init__(
        self, mesh: Mesh, collector: str, *, share: float = 0.01, service: str = "envmesh-client"
    ) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"the share of episodes that are traced is from 0 to 1; got {share!r}")
        self._spans = Spans(collector, service, mesh.client_id.hex())
        self._below = int(share * 2**56)
        mesh.traces = self

    def begin(self, episode_id: bytes, environment: str, acquired: str = "") -> EpisodeTrace | None:
        """The trace of an episode that begins, None where it is not traced. ``acquired`` is the traceparent of the
        request that brought its slot, where that was another trace."""
        if int.from_bytes(episode_id[9:]) >= self._below:
            return None
        link = remote(acquired)
        span = self._spans.begin(
            "episode",
            trace_id=episode_id,
            attributes={"envmesh.episode": episode_id.hex(), "envmesh.environment": environment},
            links=() if link is None else (link,),
        )
        return EpisodeTrace(self._spans, span)

    def acquire(self, environment: str, count: int, relocation: bool) -> tuple[Span, str]:
        """A request for slots that no single episode makes: a trace of its own, and its traceparent."""
        what: Attributes = {
            "envmesh.environment": environment,
            "envmesh.slots": count,
            "envmesh.relocation": relocation,
        }
        span = self._spans.begin("acquire", kind=CLIENT, attributes=what)
        return span, traceparent_of(span.get_span_context())

    async def close(self) -> None:
        """Send what is left, within two seconds."""
        await self._spans.close()


class EpisodeTrace:
    """The trace of an episode, on its client's side."""

    __slots__ = ("_commands", "_over", "_span", "_spans", "parent")

    def __init__(self, spans: Spans, span: Span) -> None:
        self._spans, self._span = spans, span
        self.parent = traceparent_of(span.get_span_context())
        """What is sent along, for others to add to it."""
        self._commands = 0
        self._over = False

    def command(self, name: str, began: float, error: str = "") -> None:
        """Something was asked for at ``began`` (performance counter), and is answered now."""
        self._commands += 1
        if self._commands <= MOST_COMMANDS and not self._over:
            self._spans.note(
                name,
                nanoseconds(began),
                time.time_ns(),
                parent=self._span.get_span_context(),
                kind=CLIENT,
                error=error,
            )

    def resumed(self, resume: Resume) -> None:
        """The episode stands again."""
        attributes: dict[str, str | int] = {
            "envmesh.cause": resume.cause, "envmesh.replayed_steps": resume.replayed,
            "envmesh.from_host": resume.from_host, "envmesh.to_host": resume.to_host,
        }  # fmt: skip
        ended = time.time_ns()
        begun = ended - int(resume.seconds * 1e9)
        parent = self._span.get_span_context()
        self._spans.note("rebuild", begun, ended, parent=parent, attributes=attributes)

    def end(self, steps: int, flags: int, failure: str = "") -> None:
        """The episode is over for this client."""
        if self._over:
            return
        self._over = True
        outcome = "terminated" if flags & 1 else "truncated" if flags & 2 else "closed"
        self._span.set_attributes(
            {"envmesh.steps": max(0, steps), "envmesh.outcome": "failed" if failure else outcome}
        )
        if self._commands > MOST_COMMANDS:
            self._span.set_attribute("envmesh.commands_left_out", self._commands - MOST_COMMANDS)
        if failure:
            fail(self._span, failure)
        self._span.end()


def with_traceparent(metadata: tuple[tuple[str, str], ...], traceparent: str) -> tuple[tuple[str, str], ...]:
    """A call's metadata, and in which trace it is made."""
    return (*metadata, (TRACEPARENT, traceparent)) if traceparent else metadata
