"""What is counted of an episode, when it ends, fails, and goes."""

from __future__ import annotations

import logging
import math
import time

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.copy import EpisodeCopy
from envmesh_host.hosted import RecentFailure
from envmesh_host.served import ENDED

__all__ = ["named", "note_ended", "note_failure", "note_fallen", "note_over"]

FINAL = frozenset({"VERSION_GONE", "LIMIT_EXCEEDED"})
"""Reasons after which nobody goes on with an episode, whatever its recovery class."""

FINAL_WITHOUT_RECOVERY = frozenset({"PREEMPTED", "WORKER_LOST", "WORKER_CRASHED", "WORKER_SUSPECTED"})
"""Those after which only an episode of class NONE is over: its client rebuilds any other."""

MESSAGE_CHARACTERS = 300

log = logging.getLogger("envmesh.host")


def note_ended(copy: EpisodeCopy) -> None:
    """An episode reached its end by itself."""
    environment = copy.environment
    observed = environment.observed
    observed.lengths.append(copy.index)
    outcome = "terminated" if copy.row[2] & pb.OUTCOME_FLAG_TERMINATED else "truncated"
    observed.outcomes[outcome] = observed.outcomes.get(outcome, 0) + 1
    environment.ended += 1
    if not math.isnan(copy.return_):
        observed.returns.append(copy.return_)
        environment.return_sum += copy.return_


def note_failure(copy: EpisodeCopy, refusal: Refusal, *, over: bool = False) -> None:
    """A copy has failed, and its episode with it, unless that was ``over`` before. One that can be rebuilt goes on when
    it has lost its host or worker, and is counted where it ends; that a worker died is told by cause all the same."""
    environment, reason = copy.environment, refusal.reason
    observed = environment.observed
    rebuilt = environment.info.recovery != pb.RECOVERY_CLASS_NONE and reason in FINAL_WITHOUT_RECOVERY
    if not over and not rebuilt:
        observed.outcomes["failed"] = observed.outcomes.get("failed", 0) + 1
        environment.failed += 1
        if reason in FINAL | FINAL_WITHOUT_RECOVERY:
            environment.interrupted[reason] = environment.interrupted.get(reason, 0) + 1
    if not rebuilt or reason != "PREEMPTED":
        observed.failures[reason] = observed.failures.get(reason, 0) + 1
    note_fallen(copy, refusal)


def note_fallen(copy: EpisodeCopy, refusal: Refusal) -> None:
    """A copy is of no more use, or could not be rebuilt; its episode may go on elsewhere. For people who look."""
    environment = copy.environment
    message = Exception.__str__(refusal).partition("\n")[0][:MESSAGE_CHARACTERS]
    failure = RecentFailure(copy.episode_id, copy.index, refusal.reason, message, time.monotonic())
    environment.recent_failures.append(failure)
    level = logging.INFO if refusal.reason in ("EXPIRED", "TAKEN_OVER") else logging.WARNING
    log.log(level, "episode %s of %s failed at step %d: %s", copy.episode_id.hex()[:8], copy.environment.key,
            copy.index, refusal, extra=named(copy))  # fmt: skip


def named(copy: EpisodeCopy) -> dict[str, str]:
    """What a log line about a copy says beside its text: made when there is a line, so no step pays for it."""
    names = {"episode": copy.episode_id.hex(), "lease": copy.holding.lease_id.hex()}
    return names if copy.trace is None else {**names, "trace": copy.trace.trace_id}


def note_over(copy: EpisodeCopy, now: float, *, superseded: bool) -> None:
    """A copy is gone. One that was ``superseded`` leaves an episode that goes on in a newer copy."""
    copy.environment.slot_seconds += now - copy.born
    row = copy.row
    if isinstance(row, tuple) and not row[2] & ENDED and not superseded:
        outcomes = copy.environment.observed.outcomes
        outcomes["closed"] = outcomes.get("closed", 0) + 1
