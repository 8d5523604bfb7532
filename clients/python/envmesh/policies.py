"""What a policy can be, and how it is called.

A policy is a callable from an observation to an action: plain, ``async``, or batched (from a list of observations to a
list of actions, marked with ``@batched``). One that must remember what happened in its episode is made per episode, by
a factory marked with ``@per_episode``, which is called with the episode's seed and task, and returns a plain or an
async policy. With several agents a policy
is called for each agent that is due; a mapping from agent to policy gives each its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envmesh.errors import InvalidRequest

if TYPE_CHECKING:
    from envmesh.outcome import EnvironmentSpec

__all__ = [
    "Act",
    "PolicyKind",
    "batched",
    "check_fits",
    "for_agents",
    "kind_of",
    "per_episode",
    "random_policy",
]


@dataclass(frozen=True, slots=True)
class Act:
    """An action with an annotation (policy version, token ids, log-probabilities): kept in the trajectory, never shown
    to the environment. A policy may return one in place of an action."""

    action: Any
    annotation: Any = None


def batched(policy: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """Mark a policy that takes a list of observations and returns as many actions."""
    policy.__envmesh_policy__ = "batched"  # type: ignore[attr-defined]
    return policy


def per_episode(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a factory of policies: called as ``factory(seed=…, task=…)`` when an episode begins."""
    factory.__envmesh_policy__ = "per_episode"  # type: ignore[attr-defined]
    return factory


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """How a policy is to be called."""

    asynchronous: bool
    batched: bool
    per_episode: bool


def kind_of(policy: Any) -> PolicyKind:
    """What kind of policy this is.

    Raises:
        TypeError: it is none.
    """
    if isinstance(policy, Mapping):
        kinds = [kind_of(member) for member in policy.values()]
        if any(kind.batched or kind.per_episode for kind in kinds):
            raise TypeError("the policies of single agents are plain or async callables")
        return PolicyKind(any(kind.asynchronous for kind in kinds), batched=False, per_episode=False)
    if not callable(policy):
        raise TypeError(f"a policy is a callable from observation to action; got {type(policy).__name__}")
    mark = getattr(policy, "__envmesh_policy__", None)
    call = policy if inspect.isroutine(policy) or inspect.isclass(policy) else policy.__call__
    asynchronous = inspect.iscoroutinefunction(policy) or inspect.iscoroutinefunction(call)
    if asynchronous and mark == "per_episode":
        raise TypeError(
            "a factory marked with @per_episode is a plain function; the policy it returns may be async"
        )
    return PolicyKind(asynchronous, mark == "batched", mark == "per_episode")


def check_fits(policy: Any, kind: PolicyKind, spec: EnvironmentSpec) -> None:
    """Refuse a policy that cannot play an environment. Raises: InvalidRequest."""
    if spec.agents and kind.batched:
        raise InvalidRequest(
            f"{spec.key} has several agents ({', '.join(spec.agents)}): a batched policy plays one; give a plain or an "
            "async policy, or a mapping with one for each agent"
        )
    if not spec.agents and isinstance(policy, Mapping):
        raise InvalidRequest(f"{spec.key} has one agent: give its policy, and no mapping by agent")


def for_agents(policy: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A synchronous policy for all agents that are due, out of one for a single agent (or one for each)."""
    choose = policy.__getitem__ if isinstance(policy, Mapping) else lambda agent: policy

    def act(observations: Mapping[str, Any]) -> dict[str, Any]:
        return {agent: choose(agent)(observation) for agent, observation in observations.items()}

    return act


def random_policy(space: Any, seed: int | None = None) -> Callable[[Any], Any]:
    """A policy that samples the action space; without a space it says the text ``ok``.

    Raises:
        TypeError: the space cannot be sampled (a JSON Schema, say).
    """
    if space is None:
        return lambda observation: "ok"
    sample = getattr(space, "sample", None)
    if sample is None:
        raise TypeError(f"{space!r} cannot be sampled; give a policy")
    if seed is not None:
        space.seed(seed)
    return lambda observation: sample()
