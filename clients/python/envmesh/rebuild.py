"""What becomes of an episode that lost its copy (pure).

A loss says what happened to the copy; the standing of the episode says what the client knows of it. The judgement is a
table: where the episode goes on, or how it ends, and whether its step is under suspicion of having killed what served
it. ``recovery.py`` carries it out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from envmesh.env import Recovery

__all__ = ["Judgement", "Loss", "Standing", "Suspicion", "Way", "acquit", "judge_loss", "unexplained"]


class Loss(enum.StrEnum):
    """What happened to a copy. The values are the ``cause`` of metrics."""

    LINK_LOST = "link_lost"
    """The connection ended; the host may be there."""
    HOST_SILENT = "host_silent"
    """Nothing was heard for the liveness window."""
    HOST_GONE = "host_gone"
    """The host is not there any more."""
    COPY_GONE = "copy_gone"
    """The host is there, and has no copy."""
    CLIENT_RESTARTED = "client_restarted"
    """Another client of the same journal had it; the host may have the copy."""
    WORKER_LOST = "worker_lost"
    """The worker process died, by no doing of this episode."""
    WORKER_CRASHED = "worker_crashed"
    """The worker process died while this episode's step ran in it."""
    DRAIN = "drain"
    """The host wants it to move; the copy lives."""
    PREEMPTED = "preempted"
    """The host had to go before it could be moved."""


class Way(enum.Enum):
    """Where an episode goes on."""

    RETURN = "return"
    """At its host, once that can be reached again: the copy may live."""
    HERE = "here"
    """At its host, in its slot, as a new copy."""
    ELSEWHERE = "elsewhere"
    """In another slot."""
    STAY = "stay"
    """Where it is, as long as it can."""
    FALL = "fall"
    """Nowhere: it ends as aborted."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """How many unexplained deaths there were with this step running."""

    index: int
    deaths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a client knows of one of its episodes.

    ``index`` is that of the last outcome held, -1 before the reset's; ``running`` whether a reset or step is out;
    ``journaled`` whether a journal leads to ``index``; ``alone`` whether its step, being suspected before, was the only
    one there.
    """

    recovery: Recovery
    index: int
    running: bool
    journaled: bool
    suspicion: Suspicion | None = None
    alone: bool = False

    @property
    def rebuildable(self) -> bool:
        """Whether another copy can be made."""
        return self.recovery is not Recovery.NONE and (self.journaled or self.index < 0)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Where an episode goes on; for FALL with the reason. ``suspicion`` is what is held against its step now."""

    way: Way
    reason: str = ""
    suspicion: Suspicion | None = None


_REASONS = {
    Loss.WORKER_LOST: "WORKER_LOST",
    Loss.WORKER_CRASHED: "WORKER_CRASHED",
    Loss.PREEMPTED: "PREEMPTED",
}
_WAYS = {
    Loss.LINK_LOST: Way.RETURN,
    Loss.CLIENT_RESTARTED: Way.RETURN,
    Loss.HOST_SILENT: Way.ELSEWHERE,
    Loss.HOST_GONE: Way.ELSEWHERE,
    Loss.COPY_GONE: Way.HERE,
    Loss.WORKER_LOST: Way.HERE,
    Loss.WORKER_CRASHED: Way.HERE,
    Loss.DRAIN: Way.ELSEWHERE,
    Loss.PREEMPTED: Way.ELSEWHERE,
}


def unexplained(loss: Loss) -> bool:
    """Whether a step that ran may have been what did it, as long as nobody knows better."""
    return loss in (Loss.HOST_SILENT, Loss.HOST_GONE, Loss.WORKER_CRASHED)


def acquit(suspicion: Suspicion | None, index: int) -> Suspicion | None:
    """What is held against an episode's step, once one of the deaths with step ``index`` running is explained."""
    if suspicion is None or suspicion.index != index:
        return suspicion
    return Suspicion(index, suspicion.deaths - 1) if suspicion.deaths > 1 else None


def judge_loss(standing: Standing, loss: Loss, *, poison_losses: int, explained: bool = False) -> Judgement:
    """Where an episode goes on after a loss.

    A step that was running at an unexplained death is suspected; from then on it runs alone, and another death there
    counts again. At ``poison_losses`` of them the episode ends as POISON. A reset is judged as a step is, but convicted
    one death later: it is made beside other episodes, where a suspected step has a worker to itself. Drains,
    preemptions, lost links and deaths that are ``explained`` already count nothing.
    """
    held = (
        standing.suspicion if standing.suspicion and standing.suspicion.index == standing.index + 1 else None
    )
    if not standing.rebuildable:
        if loss is Loss.DRAIN:
            return Judgement(Way.STAY)
        if loss in (Loss.LINK_LOST, Loss.HOST_SILENT, Loss.CLIENT_RESTARTED):
            return Judgement(Way.RETURN)
        return Judgement(Way.FALL, _REASONS.get(loss, "HOST_LOST"))
    suspicious = standing.running and unexplained(loss) and not explained
    if suspicious and (held is None or standing.alone):
        held = Suspicion(standing.index + 1, held.deaths + 1 if held else 1)
        if held.deaths >= poison_losses + (standing.index < 0):
            return Judgement(Way.FALL, "POISON", held)
    return Judgement(_WAYS[loss], "", held)
