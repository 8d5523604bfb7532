"""Rebuilding an episode from its journal: which commands to give, and whether they lead where they led (pure)."""

from __future__ import annotations

import math
from typing import Any

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.journals import survey
from envmesh_host.served import ENDED, Row, Served

__all__ = ["EMPTY_ROW", "Replay", "outcome_of_row", "row_of_outcome"]

EMPTY_ROW: Row = (b"", 0.0, 0, 0, b"")

TERMINATED = pb.OUTCOME_FLAG_TERMINATED
TRUNCATED = pb.OUTCOME_FLAG_TRUNCATED
AGENTS = pb.OUTCOME_FLAG_AGENTS

MOST_OUTCOME_BYTES = 256 << 20
"""A replay keeps no more outcomes than this; what fits into a message is for whoever sends it to say."""

OUTCOME_BYTES = 64
"""What an outcome takes beside its values."""


class Replay:
    """The rebuilding of one episode: which commands to give, and whether the outcomes are the journal's.

    Raises:
        Refusal: MALFORMED or VERSION_MISMATCH before anything is done, REPLAY_DIVERGED at the first outcome whose
            digest differs; the message says at which step.
    """

    def __init__(self, served: Served, request: pb.ResumeRequest):
        self._served = served
        self._request = request
        self._entries = request.journal.entries
        self._digest: int | None = None
        self._index = -1
        self._last: Row = EMPTY_ROW
        self._return = math.nan
        self._outcomes: list[pb.Outcome] = []
        self._outcome_bytes = 0
        seen = survey(request.journal)
        self._acts = seen.acts
        if seen.environment != served.definition.key:
            raise Refusal(
                f"the journal is of {seen.environment}; this slot serves {served.definition.key}",
                reason="VERSION_MISMATCH",
            )
        first = self._entries[0]
        self._build = first.reset.build if first.HasField("reset") else ""

    def commands(self) -> Any:
        """What to do, in order, as (kind, argument)."""
        for entry in self._entries:
            kind = entry.WhichOneof("entry")
            self._digest = entry.digest if kind in ("reset", "act") else None
            if kind == "reset":
                reset = entry.reset
                self._return = 0.0
                request = pb.ResetRequest(task=reset.task, split=reset.split)
                if reset.HasField("seed"):
                    request.seed = reset.seed
                if reset.HasField("options"):
                    request.options.CopyFrom(reset.options)
                yield kind, request
            elif kind == "act":
                if self._last[2] & ENDED:
                    raise Refusal(
                        f"the journal acts after the end, at step {self._index + 1}", reason="MALFORMED"
                    )
                yield kind, entry.act
            elif kind == "reseed":
                yield kind, entry.reseed
            elif kind == "checkpoint":
                yield kind, self._open_checkpoint(entry.checkpoint)
            else:
                raise Refusal("the journal holds an entry of an unknown kind", reason="MALFORMED")

    def _open_checkpoint(self, checkpoint: pb.SealedCheckpoint) -> bytes:
        content = pb.CheckpointContent.FromString(checkpoint.content)
        self._build = content.build
        if content.environment != self._served.definition.key:
            raise Refusal(f"the checkpoint is of {content.environment}", reason="VERSION_MISMATCH")
        self._index = content.last.index
        self._last = row_of_outcome(content.last)
        if content.HasField("return_so_far"):
            self._return = content.return_so_far
        return content.state.SerializeToString(deterministic=True)

    def outcome(self, row: Row) -> None:
        """Take note of what a command led to."""
        self._index += 1
        self._last = row
        self._return += row[1]
        if row[3] != self._digest:
            raise Refusal(
                f"replaying {self._served.definition.key}, step {self._index} led to another outcome than before "
                f"(digest {row[3]:016x}, journal {self._digest or 0:016x}); {self._builds()}",
                reason="REPLAY_DIVERGED",
            )
        if self._request.return_outcomes:
            self._outcome_bytes += len(row[0]) + len(row[4]) + OUTCOME_BYTES
            if self._outcome_bytes > MOST_OUTCOME_BYTES:
                raise Refusal(
                    f"the outcomes up to step {self._index} are over {MOST_OUTCOME_BYTES:,} bytes; resume without "
                    "return_outcomes",
                    reason="MESSAGE_TOO_LARGE",
                )
            self._outcomes.append(outcome_of_row(self._index, row))

    def _builds(self) -> str:
        there, here = self._build, self._served.definition.build
        if not (there and here):
            return "whether the build is the same is not known"
        if there == here:
            return f"the build is the same ({here[:12]})"
        return f"the journal is of build {there[:12]}, this host runs build {here[:12]}"

    def row(self) -> Row:
        """The ResumeResponse, beside the last outcome's columns. Their reward is all that the episode was rewarded with
        up to there; NaN where that is not known, for the journal begins at a checkpoint that does not say."""
        last = self._last
        response = pb.ResumeResponse(
            last=outcome_of_row(max(self._index, 0), last),
            outcomes=self._outcomes,
            replayed=self._acts,
            build=self._served.definition.build,
        )
        return (response.SerializeToString(), self._return, last[2], last[3], b"")


def outcome_of_row(index: int, row: Row) -> pb.Outcome:
    """The message form of an outcome's columns."""
    payload, reward, flags, digest, info = row
    outcome = pb.Outcome(
        index=index,
        reward=reward,
        terminated=bool(flags & TERMINATED),
        truncated=bool(flags & TRUNCATED),
        digest=digest,
    )
    if flags & AGENTS:
        outcome.agents.ParseFromString(payload)
    else:
        outcome.observation.ParseFromString(payload)
    if info:
        outcome.info.ParseFromString(info)
    return outcome


def row_of_outcome(outcome: pb.Outcome) -> Row:
    """The columns of an outcome's message form."""
    flags = TERMINATED * outcome.terminated | TRUNCATED * outcome.truncated
    if outcome.HasField("agents"):
        payload, flags = outcome.agents.SerializeToString(deterministic=True), flags | AGENTS
    else:
        payload = outcome.observation.SerializeToString(deterministic=True)
    info = outcome.info.SerializeToString(deterministic=True) if outcome.HasField("info") else b""
    return (payload, outcome.reward, flags, outcome.digest, info)
