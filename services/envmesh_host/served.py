"""An environment as it is served: its declaration, its spaces, and the form of its outcomes on the wire."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from math import isfinite
from typing import Any, Literal

from google.protobuf import duration_pb2
from xxhash import xxh3_64_intdigest

from envmesh import spaces, values
from envmesh.columns import decoder_of, encoder_of
from envmesh.digest import LONG_BYTES, digest_of, suffix
from envmesh.env import Definition, Isolation, Recovery, space_of
from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.asynchronous import is_asynchronous
from envmesh_host.own_digest import has_own_digest, judged_by
from envmesh_host.shown import raised, said, shown
from envmesh_host.space_parts import action_codecs, space_as_found, space_by_agent
from envmesh_host.task_table import TaskTable

__all__ = ["ENDED", "OutcomeColumns", "Row", "Served", "reset_outcome", "size_of"]

Row = tuple[bytes, float, int, int, bytes]
"""What a command led to, as the columns of one row of a ``StreamResponse``: payload, reward, flags, digest, info."""

OutcomeColumns = tuple[Sequence[bytes], Sequence[float], Sequence[int], Sequence[int], Sequence[bytes]]
"""Payloads, rewards, flags, digests, infos: rows, seen from the side."""

_TERMINATED = pb.OUTCOME_FLAG_TERMINATED
_TRUNCATED = pb.OUTCOME_FLAG_TRUNCATED
ENDED = _TERMINATED | _TRUNCATED
"""The flags of an outcome that is an episode's last."""
_AGENTS = pb.OUTCOME_FLAG_AGENTS

_SPACES: tuple[Literal["observation_space", "action_space"], ...] = ("observation_space", "action_space")

_RECOVERY = {
    Recovery.NONE: pb.RECOVERY_CLASS_NONE,
    Recovery.REPLAY: pb.RECOVERY_CLASS_REPLAY,
    Recovery.STATE: pb.RECOVERY_CLASS_STATE,
}
_ISOLATION = {
    Isolation.INLINE: pb.ISOLATION_MODE_INLINE,
    Isolation.THREAD: pb.ISOLATION_MODE_THREAD,
    Isolation.PROCESS: pb.ISOLATION_MODE_PROCESS,
}


@dataclass(slots=True, kw_only=True)
class Served:
    """An environment, looked at once when its host or worker starts. ``prepare`` makes one."""

    definition: Definition
    info: pb.EnvironmentInfo
    asynchronous: bool
    seeded: bool
    observation: spaces.Codec
    action: spaces.Codec
    agent_actions: Mapping[str, spaces.Codec]
    own_digest: bool = False
    """Whether the author says what is digested of an observation."""
    own_space: bool = False
    """Whether the author's own classes say what an action is: each instance is asked about its own episode then."""
    tasks: TaskTable = field(init=False, repr=False)
    _plain_forms: tuple[Callable[[bytes], Any], Callable[[Any], Row]] | None = field(default=None, repr=False)
    _met: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        self.tasks = TaskTable(self.definition)

    @classmethod
    def prepare(cls, definition: Definition) -> Served:
        """Make one instance, read its spaces and abilities, and close it.

        Raises:
            Refusal: ENVIRONMENT_RAISED or ENVIRONMENT_RETURNED when it cannot be created or is no environment.
        """
        doing = "creating"
        try:
            instance = definition.factory()
            doing = "looking at"
            served = cls._found(definition, instance)
            doing = "closing"
            close = getattr(instance, "close", None)
            if close is not None and not inspect.iscoroutinefunction(close):
                close()
        except Refusal:
            raise
        except (Exception, SystemExit) as error:
            raise raised(f"{definition.target}: {doing} the environment", error) from error
        return served

    @classmethod
    def _found(cls, definition: Definition, instance: Any) -> Served:
        missing = [name for name in ("reset", "step") if not callable(getattr(instance, name, None))]
        if missing:
            raise Refusal(
                f"{definition.target} is no environment: it has no {' and no '.join(missing)}()",
                reason="ENVIRONMENT_RETURNED",
            )
        declaration = definition.declaration
        observation_space = space_of(declaration.observation_space, instance, "observation_space")
        action_space = space_of(declaration.action_space, instance, "action_space")
        asynchronous = is_asynchronous(instance)
        seeded = declaration.seeded if declaration.seeded is not None else _accepts(instance.reset, "seed")
        info = _info(definition, instance, observation_space, action_space, seeded)
        served = cls._with_spaces(definition, info, asynchronous, observation_space, action_space)
        served._meet(instance)
        return served

    @classmethod
    def as_found(cls, definition: Definition, info: pb.EnvironmentInfo, asynchronous: bool) -> Served:
        """The same without an instance, from what ``prepare`` found in another process. What the author's own spaces
        say beyond it comes from the first instance."""
        declaration = definition.declaration
        found = [
            space_as_found(getattr(declaration, name), getattr(info, name) if info.HasField(name) else None)
            for name in _SPACES
        ]
        return cls._with_spaces(definition, info, asynchronous, *found)

    @classmethod
    def _with_spaces(
        cls,
        definition: Definition,
        info: pb.EnvironmentInfo,
        asynchronous: bool,
        observation_space: Any,
        action_space: Any,
    ) -> Served:
        agents = definition.declaration.agents
        action, agent_actions = action_codecs(agents, action_space)
        return cls(
            definition=definition,
            info=info,
            asynchronous=asynchronous,
            seeded=info.seeded,
            observation=spaces.codec(None if agents else observation_space),
            action=action,
            agent_actions=agent_actions,
        )

    def _meet(self, instance: Any) -> None:
        """Take up what no info can say: whether the author has a digest and spaces of their own."""
        self._met = True
        self.own_digest = has_own_digest(instance)
        space, agents = self._action_space_of(instance), self.definition.declaration.agents
        parts = space_by_agent(agents, space).values() if agents else (space,)
        self.own_space = any(map(spaces.is_authors_own, parts))

    def _action_space_of(self, instance: Any) -> Any:
        return space_of(self.definition.declaration.action_space, instance, "action_space")

    def forms_of(self, instance: Any) -> tuple[Callable[[bytes], Any], Callable[[Any], Row]]:
        """How to read this instance's actions, and how to write its outcomes."""
        if not self._met:
            self._meet(instance)
        read, write = self._forms_of(instance)
        return read, judged_by(instance, write) if self.own_digest else write

    def _forms_of(self, instance: Any) -> tuple[Callable[[bytes], Any], Callable[[Any], Row]]:
        action, agent_actions, agents = self.action, self.agent_actions, self.definition.declaration.agents
        if self.own_space:
            action, agent_actions = action_codecs(agents, self._action_space_of(instance))
        if agents:
            return (
                lambda data: self._read_actions(data, _acting(instance), agent_actions),
                lambda result: self._write_agents(result, _acting(instance)),
            )
        if self.own_space:
            return self._action_reader(action), self._outcome_writer()
        if self._plain_forms is None:
            self._plain_forms = self._action_reader(action), self._outcome_writer()
        return self._plain_forms

    def _action_reader(self, codec: spaces.Codec) -> Callable[[bytes], Any]:
        decode, check = codec.decode, codec.check
        key = self.definition.key
        unchecked = spaces.codec(None).check is check

        def read(action: bytes) -> Any:
            try:
                value = decode(action)
            except ValueError as error:
                raise Refusal(f"the action cannot be decoded: {error}", reason="ACTION_INVALID") from None
            problem = None if unchecked else check(value)
            if problem is not None:
                raise Refusal(f"{key} refuses the action: {problem}", reason="ACTION_INVALID")
            return value

        return read

    def _outcome_writer(self) -> Callable[[Any], Row]:
        encode = self.observation.encode

        def write(result: Any) -> Row:
            try:
                observation, reward, terminated, truncated, info = result
                payload = encode(observation)
                reward = float(reward) + 0.0  # -0.0 too is 0.0: a row does not say the sign of a zero
                flags = _TERMINATED if terminated else 0
                if truncated:
                    flags |= _TRUNCATED
                info = _packed_info(info) if info else b""
            except Exception as error:  # whatever an author's objects raise when they are looked at
                raise _not_an_outcome(result, error) from None
            if not isfinite(reward):
                raise Refusal(f"the reward is {reward}; a reward must be finite", reason="REWARD_INVALID")
            return payload, reward, flags, digest_of(payload, suffix(reward, flags)), info

        return write

    def batch_forms(
        self,
    ) -> tuple[Callable[[Sequence[bytes]], list[Any]], Callable[[Sequence[Any]], OutcomeColumns]]:
        """How to read a column of actions and write a column of outcomes. Both raise whatever they raise where one of
        them is wrong; the one by one forms then say which, and what. Not for several agents, an own digest or
        own spaces."""
        decode, check = decoder_of(self.action.decode), self.action.check
        encode = encoder_of(self.observation.encode)
        unchecked = spaces.codec(None).check is check

        def read(column: Sequence[bytes]) -> list[Any]:
            actions = decode(column)
            if not unchecked and any(map(check, actions)):
                raise ValueError("an action does not belong to its space")
            return actions

        def write(results: Sequence[Any]) -> OutcomeColumns:
            observations, raw_rewards, terminated, truncated, infos = zip(*results, strict=True)
            payloads = encode(observations)
            rewards = [float(reward) + 0.0 for reward in raw_rewards]
            if not isfinite(sum(rewards)):
                raise ValueError("a reward is not finite")
            flags = [0] * len(rewards)
            for flag, column in ((_TERMINATED, terminated), (_TRUNCATED, truncated)):
                for row in compress(range(len(rewards)), column):  # few
                    flags[row] |= flag
            suffixes = map(suffix, rewards, flags)
            if max(map(len, payloads)) < LONG_BYTES:
                digests = [
                    xxh3_64_intdigest(data + end) for data, end in zip(payloads, suffixes, strict=True)
                ]
            else:
                digests = list(map(digest_of, payloads, suffixes))
            packed_infos = [b""] * len(rewards)
            if any(infos):
                packed_infos = [_packed_info(info) if info else b"" for info in infos]
            return payloads, rewards, flags, digests, packed_infos

        return read, write

    def _read_actions(
        self, action: bytes, acting: tuple[str, ...], codecs: Mapping[str, spaces.Codec]
    ) -> dict[str, Any]:
        try:
            actions = values.decode(action)
        except ValueError as error:
            raise Refusal(f"the action cannot be decoded: {error}", reason="ACTION_INVALID") from None
        if not isinstance(actions, dict) or set(actions) != set(acting):
            given = sorted(actions) if isinstance(actions, dict) else type(actions).__name__
            raise Refusal(
                f"the actions must be a map with exactly the agents that are due, {sorted(acting)}; got {given}",
                reason="ACTION_INVALID",
            )
        for agent, value in actions.items():
            codec = codecs.get(agent)
            if codec is None:
                continue
            actions[agent] = typed = codec.typed(value)
            problem = codec.check(typed)
            if problem is not None:
                raise Refusal(
                    f"{self.definition.key} refuses {agent}'s action: {problem}", reason="ACTION_INVALID"
                )
        return actions

    def _write_agents(self, result: Any, acting: tuple[str, ...]) -> Row:
        try:
            observations, rewards, terminations, truncations, infos = result
            rewards, terminations, truncations = (
                given if isinstance(given, Mapping) else {} for given in (rewards, terminations, truncations)
            )
            message = pb.AgentOutcomes(acting=acting)
            message.outcomes.extend(
                pb.AgentOutcome(
                    agent=agent,
                    observation=values.to_proto(observations[agent]) if agent in observations else None,
                    reward=float(rewards.get(agent, 0.0)),
                    terminated=bool(terminations.get(agent, False)),
                    truncated=bool(truncations.get(agent, False)),
                )
                for agent in sorted({*observations, *rewards, *terminations, *truncations, *infos})
            )
            outcomes = message.outcomes
            total = float(sum(outcome.reward for outcome in outcomes))
            payload = digested = message.SerializeToString(deterministic=True)
            for outcome in outcomes:
                if infos.get(outcome.agent):
                    outcome.info.CopyFrom(values.to_proto(dict(infos[outcome.agent])))
            if any(infos.values()):
                payload = message.SerializeToString(deterministic=True)
        except Exception as error:
            raise _not_an_outcome(result, error) from None
        if not isfinite(total) or not all(isfinite(outcome.reward) for outcome in outcomes):
            raise Refusal("an agent's reward is not finite", reason="REWARD_INVALID")
        flags: int = _AGENTS
        if not acting:
            cut_off = any(o.truncated for o in outcomes) and not any(o.terminated for o in outcomes)
            flags |= _TRUNCATED if cut_off else _TERMINATED
        return payload, total, flags, digest_of(digested, suffix(total, flags & ENDED)), b""


def size_of(row: Row) -> int:
    """The bytes of what a row carries, of its payload and its info."""
    return len(row[0]) + len(row[4])


def reset_outcome(result: Any) -> Any:
    """What ``reset`` returned, in the form of what ``step`` returns.

    Raises:
        Refusal: ENVIRONMENT_RETURNED when it is not ``(observation, info)``.
    """
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Refusal(
            f"reset() must return (observation, info); it returned {_form_of(result)}",
            reason="ENVIRONMENT_RETURNED",
        )
    observation, info = result
    return observation, 0.0, False, False, info


def _acting(instance: Any) -> tuple[str, ...]:
    """The agents that are due."""
    try:
        acting = tuple(instance.acting)
        if not all(isinstance(agent, str) for agent in acting):
            raise TypeError("an agent's name is text")
        return acting
    except Exception as error:
        raise Refusal(
            f"`acting` must name the agents that are due: {type(error).__name__}: {said(error)}",
            reason="ENVIRONMENT_RETURNED",
        ) from None


def _not_an_outcome(result: Any, error: Exception) -> Refusal:
    if not isinstance(result, tuple | list) or len(result) != 5:
        wanted = "(observation, reward, terminated, truncated, info)"
        return Refusal(
            f"step() must return {wanted}; it returned {_form_of(result)}", reason="ENVIRONMENT_RETURNED"
        )
    return Refusal(f"the outcome has no form on the wire: {said(error)}", reason="ENVIRONMENT_RETURNED")


def _form_of(result: Any) -> str:
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    return shown(result)


def _packed_info(info: Any) -> bytes:
    if type(info) is not dict and not isinstance(info, Mapping):
        raise TypeError(f"an info is a map, not {type(info).__name__}")
    return values.encode(info)


def _accepts(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _summary(instance: Any) -> str:
    """The first paragraph of what the author wrote about the class; of what wrappers wrap, not of the wrappers."""
    written = inspect.getdoc(type(getattr(instance, "unwrapped", instance))) or ""
    paragraphs = (paragraph.strip() for paragraph in written.split("\n\n"))
    return next((each for each in paragraphs if each and not each.startswith("#")), "")[:500]


def _seconds(value: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(value), nanos=int(value % 1 * 1e9))


def _info(
    definition: Definition, instance: Any, observation_space: Any, action_space: Any, seeded: bool
) -> pb.EnvironmentInfo:
    declaration = definition.declaration
    info = pb.EnvironmentInfo(
        name=definition.name,
        version=declaration.version,
        build=definition.build,
        target=definition.target,
        recovery=_RECOVERY[declaration.recovery],
        isolation=_ISOLATION[declaration.isolation],
        agents=declaration.agents,
        options=declaration.options,
        seeded=seeded,
        grades=hasattr(instance, "reward") and callable(instance.reward),
        checkpoints=hasattr(instance, "checkpoint"),
        reseeds=hasattr(instance, "reseed"),
        has_tasks=definition.tasks is not None,
        deterministic=declaration.deterministic or has_own_digest(instance),
        reset_limit=_seconds(declaration.limits.reset_seconds),
        step_limit=_seconds(declaration.limits.step_seconds),
        reward_limit=_seconds(declaration.limits.reward_seconds),
        summary=_summary(instance),
    )
    for name, space in zip(_SPACES, (observation_space, action_space), strict=True):
        if space is not None:
            getattr(info, name).CopyFrom(spaces.to_proto(space))
    if declaration.recovery is Recovery.STATE and not (info.checkpoints and hasattr(instance, "restore")):
        raise Refusal(
            f"{definition.target} declares recovery 'state' but has no checkpoint() and restore()",
            reason="ENVIRONMENT_RETURNED",
        )
    return info
