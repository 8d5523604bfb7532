"""The trace of an episode that is played by hand (``Episode``), where it has one."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any

from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.episode_in_slot import EpisodeInSlot
    from envmesh.session import Episode
    from envmesh.slot import Slot
    from envmesh.traces import EpisodeTrace

__all__ = ["begin_trace", "command_name", "end_trace", "take_slot", "trace_command"]


def begin_trace(episode: Episode, slot: Slot | None = None) -> str:
    """Begin the trace, if this episode is to have one. Returns its traceparent."""
    traces = episode._mesh.traces
    if episode.trace is None and traces is not None:
        acquired = slot.acquired if slot is not None else ""
        episode.trace = traces.begin(episode.episode_id, episode.pool.environment, acquired)
    return episode.traceparent


def end_trace(episode: EpisodeInSlot, failure: str = "") -> None:
    """The episode is over, or it is another client's from now on."""
    if episode.trace is not None:
        why = failure if episode.failure is None else str(episode.failure)
        episode.trace.end(episode.index, episode.flags, why)


async def take_slot(episode: Episode, timeout: float) -> Slot:
    """A slot for the episode. Raises: as ``LeasePool.take``."""
    began = time.perf_counter()
    slot = await episode.pool.take(timeout, episode.traceparent)
    if episode.trace is not None:
        episode.trace.command("slot", began)
    return slot


def trace_command(trace: EpisodeTrace, kind: int, index: int, answer: asyncio.Future[Any]) -> None:
    """A command is about to be sent."""
    answer.add_done_callback(functools.partial(_answered, trace, kind, index, time.perf_counter()))


def _answered(trace: EpisodeTrace, kind: int, index: int, began: float, answer: asyncio.Future[Any]) -> None:
    """It is answered, or nobody waits for it any more."""
    error = "nobody waits for it" if answer.cancelled() else str(answer.exception() or "")
    trace.command(command_name(kind, index), began, error)


def command_name(kind: int, index: int) -> str:
    """A command, for people."""
    name = pb.CommandKind.Name(kind).removeprefix("COMMAND_KIND_").lower()  # type: ignore[arg-type]
    return f"{name} {index}" if kind == pb.COMMAND_KIND_STEP else name
