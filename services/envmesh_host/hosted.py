"""An environment on this host: what is served, what plays it, and what has been observed of it since the last look."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from envmesh.env import Definition
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.runner import Runner
from envmesh_host.observed import Observed
from envmesh_host.player import Player
from envmesh_host.served import Served
from envmesh_host.task_table import TaskTable

__all__ = ["Hosted", "RecentFailure"]


KEPT_FAILURES = 16


@dataclass(frozen=True, slots=True)
class RecentFailure:
    """An episode that failed: for people who look at the mesh. ``at`` is on the monotonic clock."""

    episode_id: bytes
    index: int
    reason: str
    message: str
    at: float


class Hosted:
    """One environment on this host. ``served`` is set where it is played inline and synchronously, by the stream's
    reader itself; otherwise ``runner`` plays it. ``read_actions`` and ``write_outcomes`` are its forms for whole
    columns. ``step_cost`` is a running estimate of the seconds of a step in the environment, ``row_cost`` of all that a
    host does for one in a frame."""

    __slots__ = (
        "begun",
        "checkpoint_seconds",
        "checkpoint_steps",
        "definition",
        "ended",
        "failed",
        "info",
        "interrupted",
        "key",
        "observed",
        "players",
        "read_actions",
        "recent_failures",
        "reset_limit",
        "return_sum",
        "reuse",
        "reward_limit",
        "row_cost",
        "runner",
        "saves",
        "served",
        "slot_seconds",
        "step_cost",
        "step_limit",
        "steps",
        "takes_tools",
        "tasks",
        "write_outcomes",
    )

    def __init__(self, info: pb.EnvironmentInfo, *, served: Served | None, runner: Runner | None, reuse: bool,
                 definition: Definition):  # fmt: skip
        self.info = info
        self.key = f"{info.name}@{info.version}"
        self.served = served
        self.runner = runner
        self.reuse = reuse
        self.definition = definition
        self.tasks = TaskTable(definition) if served is None else served.tasks
        self.players: list[Player] = []
        self.reset_limit = info.reset_limit.ToMilliseconds() / 1e3
        self.step_limit = info.step_limit.ToMilliseconds() / 1e3
        self.reward_limit = info.reward_limit.ToMilliseconds() / 1e3
        self.observed = Observed()
        self.read_actions: Any = None
        self.write_outcomes: Any = None
        self.step_cost = self.row_cost = 1e-5
        if served is not None and not (info.agents or served.own_digest or served.own_space):
            self.read_actions, self.write_outcomes = served.batch_forms()
        self.saves = info.recovery == pb.RECOVERY_CLASS_STATE and info.checkpoints
        self.checkpoint_steps = definition.declaration.checkpoint_steps or 50
        self.checkpoint_seconds = definition.declaration.checkpoint_seconds or 30.0
        self.takes_tools = info.action_space.HasField("tools")
        self.begun = 0
        self.ended = 0
        self.failed = 0
        self.steps = 0
        self.slot_seconds = 0.0
        self.return_sum = 0.0
        self.interrupted: dict[str, int] = {}
        self.recent_failures: deque[RecentFailure] = deque(maxlen=KEPT_FAILURES)

    def player(self) -> Player:
        """An instance to play an episode with: one that was played before, where the environment allows it."""
        assert self.served is not None
        return self.players.pop() if self.players else Player(self.served)

    def take_observed(self) -> Observed:
        """What was observed since the last call."""
        taken, self.observed = self.observed, Observed()
        self.steps += len(taken.step_seconds) + taken.step_times.steps
        return taken

    def limit(self, kind: int) -> float:
        """The bound on the environment's running time for a command, in seconds."""
        if kind == pb.COMMAND_KIND_STEP or kind == pb.COMMAND_KIND_CHECKPOINT:
            return self.step_limit
        return self.reward_limit if kind == pb.COMMAND_KIND_REWARD else self.reset_limit


Waiter = tuple[Any, int, int]
"""Who waits for a reply: (sink, handle, index); a sink has ``reply(handle, index, event_kind, row)``."""
