"""What callers get: outcomes of steps, and trajectories of episodes. Values are decoded when somebody looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

from envmesh import spaces, values
from envmesh.columns import decoder_of
from envmesh.env import Isolation, Limits, Recovery
from envmesh.errors import Failure
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import value_pb2

__all__ = ["AgentsOutcome", "EnvironmentSpec", "Outcome", "Resume", "Trajectory"]

TERMINATED, TRUNCATED, AGENTS = 1, 2, 4

OutcomeRow = tuple[bytes, float, int, int, bytes]
"""Payload, reward, flags, digest, info: an outcome's columns."""

_UNDECODED: Any = object()


class EnvironmentSpec:
    """An environment as the mesh serves it. ``key`` is ``name@version``."""

    def __init__(self, info: pb.EnvironmentInfo):
        self.message = info
        self.name = info.name
        self.version = info.version
        self.key = f"{info.name}@{info.version}"
        self.build = info.build
        self.target = info.target
        self.recovery = _RECOVERY.get(info.recovery, Recovery.NONE)
        self.isolation = _ISOLATION.get(info.isolation, Isolation.PROCESS)
        self.agents = tuple(info.agents)
        self.options = tuple(info.options)
        self.seeded = info.seeded
        self.grades = info.grades
        self.checkpoints = info.checkpoints
        self.has_tasks = info.has_tasks
        self.summary = info.summary
        self.limits = Limits(
            reset_seconds=info.reset_limit.ToMilliseconds() / 1e3 or 120.0,
            step_seconds=info.step_limit.ToMilliseconds() / 1e3 or 60.0,
            reward_seconds=info.reward_limit.ToMilliseconds() / 1e3 or 120.0,
        )

    def __repr__(self) -> str:
        return f"<EnvironmentSpec {self.key} {self.isolation.value} {self.recovery.value}>"

    @property
    def observation_space(self) -> Any:
        """The declared space (a ``gymnasium.Space``, JSON Schema or tool list), or None."""
        return (
            spaces.from_proto(self.message.observation_space)
            if self.message.HasField("observation_space")
            else None
        )

    @property
    def action_space(self) -> Any:
        """The declared space, or None."""
        return spaces.from_proto(self.message.action_space) if self.message.HasField("action_space") else None

    @cached_property
    def observation_codec(self) -> Any:
        """How observations are written; with several agents, in the general form."""
        declared = self.message.HasField("observation_space") and not self.agents
        return spaces.codec(self.message.observation_space if declared else None)

    @cached_property
    def action_codec(self) -> Any:
        """How actions are written; with several agents, in the general form."""
        declared = self.message.HasField("action_space") and not self.agents
        return spaces.codec(self.message.action_space if declared else None, action=True)


class Outcome:
    """What a reset or step led to. Observation and info are decoded when they are first asked for."""

    __slots__ = (
        "_decode",
        "_info",
        "_observation",
        "_payload",
        "digest",
        "index",
        "reward",
        "terminated",
        "truncated",
    )

    def __init__(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes, decode: Any
    ):
        self.index = index
        self.reward: Any = reward
        self.terminated: Any = flags & TERMINATED != 0
        self.truncated: Any = flags & TRUNCATED != 0
        self.digest = digest
        self._payload = payload
        self._info: Any = info
        self._decode = decode
        self._observation = _UNDECODED

    def __repr__(self) -> str:
        end = " terminated" * bool(self.terminated) + " truncated" * bool(self.truncated)
        return f"<Outcome {self.index}: {self.observation!r:.60} reward={self.reward}{end}>"

    @property
    def observation(self) -> Any:
        """What is observed."""
        if self._observation is _UNDECODED:
            self._observation = self._decode(self._payload)
        return self._observation

    @property
    def info(self) -> Any:
        """Info, as a dict."""
        if isinstance(self._info, bytes):
            self._info = values.decode(self._info) if self._info else {}
        return self._info

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return bool(self.terminated or self.truncated)


class AgentsOutcome(Outcome):
    """The outcome of an episode with several agents: observation, reward, terminated, truncated and info are dicts
    keyed by agent; ``acting`` says who must act next."""

    __slots__ = ("_done", "acting")

    def __init__(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes, decode: Any
    ):
        super().__init__(index, payload, reward, flags, digest, info, decode)
        message = pb.AgentOutcomes.FromString(payload)
        outcomes = message.outcomes
        self._done = bool(flags & (TERMINATED | TRUNCATED))
        self.acting = tuple(message.acting)
        self._observation = {
            o.agent: values.from_proto(o.observation) for o in outcomes if o.HasField("observation")
        }
        self.reward = {o.agent: o.reward for o in outcomes}
        self.terminated = {o.agent: o.terminated for o in outcomes}
        self.truncated = {o.agent: o.truncated for o in outcomes}
        self._info = {o.agent: values.from_proto(o.info) if o.HasField("info") else {} for o in outcomes}

    @property
    def done(self) -> bool:
        """Whether the episode is over for everybody."""
        return self._done


def make_outcome(
    index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes, decode: Any
) -> Outcome:
    """The outcome of an event's columns."""
    kind = AgentsOutcome if flags & AGENTS else Outcome
    return kind(index, payload, reward, flags, digest, info, decode)


def message_of_outcome(outcome: Outcome) -> pb.Outcome:
    """The message of an outcome; with several agents its payload says everything."""
    if isinstance(outcome, AgentsOutcome):
        agents = pb.AgentOutcomes.FromString(outcome._payload)
        return pb.Outcome(index=outcome.index, digest=outcome.digest, terminated=outcome.done, agents=agents)
    return pb.Outcome(
        index=outcome.index, digest=outcome.digest, reward=outcome.reward, terminated=outcome.terminated,
        truncated=outcome.truncated, observation=value_pb2.Value.FromString(outcome._payload),
        info=values.to_proto(outcome.info),
    )  # fmt: skip


def outcome_of_message(message: pb.Outcome, spec: EnvironmentSpec) -> Outcome:
    """The outcome of a message (an answer to Resume)."""
    payload, reward, flags, digest, info = columns_of_message(message)
    decode = None if flags & AGENTS else spec.observation_codec.decode
    return make_outcome(message.index, payload, reward, flags, digest, info, decode)


def columns_of_message(message: pb.Outcome) -> tuple[bytes, float, int, int, bytes]:
    """A message's outcome as columns: payload, reward, flags, digest, info."""
    flags = TERMINATED * message.terminated | TRUNCATED * message.truncated
    if message.HasField("agents"):
        flags, payload = flags | AGENTS, message.agents.SerializeToString(deterministic=True)
    else:
        payload = message.observation.SerializeToString(deterministic=True)
    info = message.info.SerializeToString(deterministic=True) if message.HasField("info") else b""
    return payload, message.reward, flags, message.digest, info


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """An episode was rebuilt or taken up again.

    ``index`` is the last step held then (-1: none), ``cause`` a value of ``rebuild.Loss``, ``seconds`` how long it
    took from the loss on, ``replayed`` how many steps were played again.
    """

    index: int
    cause: str
    seconds: float
    replayed: int
    from_host: str
    to_host: str


_reward_of = itemgetter(1)  # of an OutcomeRow


class Trajectory:
    """An episode's recorded data.

    ``rewards``, ``digests`` and the decoded ``actions`` have one element a step; ``observations`` and ``infos`` one
    more, the reset's first. ``options`` are those of the reset, ``packed_options`` their serialized Value (nothing
    where there are none). ``return_`` is the sum of rewards, None where the episode failed; then ``failure`` says how.
    ``annotations`` maps a step index to what the policy attached to that step. ``host`` is the address of the last
    host, ``resumes`` says when the episode was rebuilt. ``seconds`` is how long it took, ``step_seconds`` how long each
    step did where that was measured (None elsewhere), ``ended_at`` when it was recorded, in Unix seconds (0.0: not
    yet).
    """

    __slots__ = (
        "_actions",
        "_return",
        "_rows",
        "_summed",
        "annotations",
        "build",
        "ended_at",
        "environment",
        "episode_id",
        "failure",
        "flags",
        "grade",
        "group",
        "host",
        "packed_options",
        "resumes",
        "seconds",
        "seed",
        "spec",
        "split",
        "step_seconds",
        "task",
        "version",
    )

    def __init__(self, spec: EnvironmentSpec, episode_id: bytes, *, seed: int | None, options: Mapping[str, Any] | None,
                 packed_options: bytes = b"", task: str = "", split: str = "", group: int | None = None):  # fmt: skip
        self.spec = spec
        self.environment = spec.name
        self.version = spec.version
        self.build = spec.build
        self.episode_id = episode_id
        self.seed = seed
        self.packed_options = values.encode(dict(options)) if options else packed_options
        self.task = task
        self.split = split
        self.group = group
        self.flags = 0
        self.failure: Failure | None = None
        self.grade: Any = None
        self.annotations: dict[int, Any] | None = None
        self.seconds = 0.0
        self.host = ""
        self.resumes: tuple[Resume, ...] = ()
        self.step_seconds: Sequence[float] | None = None
        self.ended_at = 0.0
        self._rows: list[OutcomeRow] = []
        self._actions: list[bytes] = []
        self._return, self._summed = 0.0, 0

    def __repr__(self) -> str:
        end = f"failed: {self.failure.cause}" if self.failure else f"return={self.return_:g}"
        return f"<Trajectory {self.environment}@{self.version} seed={self.seed} steps={len(self)} {end}>"

    def __len__(self) -> int:
        return max(0, len(self._rows) - 1)

    def fill(self, rows: Iterable[OutcomeRow], actions: Iterable[bytes]) -> None:
        """Take recorded rows (the reset's first) and actions in place of what is there."""
        self._rows, self._actions = list(rows), list(actions)
        self._summed = 0

    @property
    def options(self) -> Any:
        """The reset options, decoded; None where there are none."""
        return values.decode(self.packed_options) if self.packed_options else None

    @property
    def rewards(self) -> list[float]:
        """The reward of each step; with several agents the sum of theirs."""
        return list(map(_reward_of, self._rows[1:]))

    @property
    def digests(self) -> list[int]:
        """The digest of each outcome, the reset's first."""
        return [row[3] for row in self._rows]

    @property
    def packed_observations(self) -> list[bytes]:
        """The observations' serialized Values."""
        return [row[0] for row in self._rows]

    @property
    def packed_actions(self) -> list[bytes]:
        """The actions' serialized Values."""
        return self._actions

    @property
    def packed_infos(self) -> dict[int, bytes]:
        """The infos' serialized Values, by step index; an empty info is not there."""
        return {index: row[4] for index, row in enumerate(self._rows) if row[4]}

    @property
    def return_(self) -> float | None:
        """The sum of rewards; None where the episode failed."""
        if self.failure is not None:
            return None
        if self._summed != len(self._rows):  # several ask, and by then the rows are far from the CPU
            self._return, self._summed = float(sum(map(_reward_of, self._rows[1:]))), len(self._rows)
        return self._return

    @property
    def terminated(self) -> bool:
        """It ended by its own rules."""
        return bool(self.flags & TERMINATED)

    @property
    def truncated(self) -> bool:
        """It was cut off."""
        return bool(self.flags & TRUNCATED)

    @property
    def outcome(self) -> str:
        """``terminated``, ``truncated``, ``failed`` or ``open``."""
        if self.failure is not None:
            return "failed"
        return "terminated" if self.terminated else "truncated" if self.truncated else "open"

    @property
    def observations(self) -> list[Any]:
        """All observations, decoded; with several agents dicts keyed by agent."""
        if self.spec.agents or not self._rows:
            return [outcome.observation for outcome in self.outcomes()]
        return decoder_of(self.spec.observation_codec.decode)(self.packed_observations)

    @property
    def actions(self) -> list[Any]:
        """All actions, decoded."""
        return list(map(self.spec.action_codec.decode, self._actions))

    @property
    def infos(self) -> list[Any]:
        """All infos, decoded."""
        return [outcome.info for outcome in self.outcomes()]

    def outcomes(self) -> list[Outcome]:
        """Every outcome, the reset's first."""
        decode = self.spec.observation_codec.decode
        return [
            make_outcome(index, payload, reward, flags, digest, info, decode)
            for index, (payload, reward, flags, digest, info) in enumerate(self._rows)
        ]


_RECOVERY = {
    pb.RECOVERY_CLASS_NONE: Recovery.NONE,
    pb.RECOVERY_CLASS_REPLAY: Recovery.REPLAY,
    pb.RECOVERY_CLASS_STATE: Recovery.STATE,
}
_ISOLATION = {
    pb.ISOLATION_MODE_INLINE: Isolation.INLINE,
    pb.ISOLATION_MODE_THREAD: Isolation.THREAD,
    pb.ISOLATION_MODE_PROCESS: Isolation.PROCESS,
}
