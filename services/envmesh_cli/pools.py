"""Which pools a local mesh has: from the words of ``envmesh up`` to a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from envmesh.target import TargetError, split_target

__all__ = ["MOST_HOSTS", "PoolPlan", "plan_pools"]

MOST_HOSTS = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """A pool: what each of its hosts serves, and how many hosts there are.

    ``flags`` are arguments of ``envmesh serve`` beside the targets, ``settings`` variables ``ENVMESH_HOST_…``.
    """

    name: str
    targets: tuple[str, ...]
    hosts: int = 1
    flags: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise TargetError(
                f"{self.name!r} cannot be a pool's name: 1 to 63 letters, digits, '.', '_' or '-' are right"
            )
        if not self.targets:
            raise TargetError(
                f"pool {self.name!r} has no environment: write --pool {self.name} [NAME=]TARGET …"
            )
        if not 1 <= self.hosts <= MOST_HOSTS:
            raise TargetError(f"pool {self.name!r} has 1 to {MOST_HOSTS} hosts; got {self.hosts}")
        for text in self.targets:
            split_target(text)


def plan_pools(
    targets: Sequence[str], groups: Sequence[Sequence[str]] = (), *, hosts: int = 1, flags: Sequence[str] = ()
) -> list[PoolPlan]:
    """One pool for each target, named after its environment, and one for each group.

    A group is ``NAME`` or ``NAME:HOSTS``, then its targets.

    Raises:
        TargetError: a word is not what it should be, or two pools have one name.
    """
    plans: list[PoolPlan] = []
    for text in targets:
        name = _unique(_pool_name(text), plans)
        plans.append(PoolPlan(name=name, targets=(text,), hosts=hosts, flags=tuple(flags)))
    for head, *members in groups:
        name, colon, count = head.partition(":")
        if "=" in head or (colon and not count.isdecimal()):
            raise TargetError(
                f"--pool {head}: a pool's name comes first, or NAME:HOSTS such as games:2; then its targets"
            )
        if any(plan.name == name for plan in plans):
            raise TargetError(f"there are two pools named {name!r}: give one another name")
        plan = PoolPlan(
            name=name, targets=tuple(members), hosts=int(count) if colon else hosts, flags=tuple(flags)
        )
        plans.append(plan)
    if not plans:
        raise TargetError("nothing to serve: write [NAME=]TARGET, such as cartpole=gymnasium:CartPole-v1")
    return plans


def _pool_name(text: str) -> str:
    """The environment's name; without one, the last part of the target: ``CartPole-v1``, ``Countdown``."""
    name, target = split_target(text)
    word = name.partition("@")[0] if name else target.partition("?")[0].rpartition(":")[2]
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-._")
    return word[:60] or "pool"


def _unique(name: str, plans: Sequence[PoolPlan]) -> str:
    taken = {plan.name for plan in plans}
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name}-{number}", number + 1
    return unique
