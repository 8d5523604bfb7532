"""The pools that are scaled, from a JSON file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from envmesh_autoscaler.demand import PoolPolicy

__all__ = ["MODES", "ScaledPool", "Scaling", "read_scaling"]

MODES = ("direct", "keda", "hpa")

_NUMBERS = {number.name: number.type for number in dataclasses.fields(PoolPolicy)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledPool:
    """A pool: what it serves, which Deployment it is, and how it is scaled."""

    name: str
    environments: tuple[str, ...]
    policy: PoolPolicy = field(default_factory=PoolPolicy)
    deployment: str = ""
    """Empty: as the pool."""
    mode: str = "direct"
    """Who writes replicas: we, KEDA by our answers, or an HPA of its own."""
    retiring: bool = False
    """Its hosts are kept for the episodes that they have, and take no new ones."""
    drain_budget: int = 2
    """A roll pauses while more of its hosts than this drain."""

    @property
    def target(self) -> str:
        """The Deployment's name."""
        return self.deployment or self.name


@dataclass(frozen=True, slots=True)
class Scaling:
    """The pools, and the most hosts over all of them; 0: no bound."""

    pools: tuple[ScaledPool, ...]
    max_hosts: int = 0


def read_scaling(text: str) -> Scaling:
    """Read a pools file: ``{"max_hosts": 0, "pools": [{"name": "cartpole", "environments": ["cartpole@1"]}]}``. A pool
    may say ``deployment``, ``mode``, ``retiring``, ``drain_budget`` and every field of ``PoolPolicy`` too; durations
    are in seconds.

    Raises:
        ValueError: with what is wrong in it.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if not isinstance(document, dict) or set(document) - {"max_hosts", "pools"}:
        raise ValueError("it must be an object with 'pools' and 'max_hosts', and nothing else")
    cap, entries = document.get("max_hosts", 0), document.get("pools")
    if isinstance(cap, bool) or not isinstance(cap, int) or cap < 0:
        raise ValueError("max_hosts: a whole number of at least 0 is right (0: no bound)")
    if not isinstance(entries, list):
        raise ValueError("pools: a list is right")
    pools = [_pool(entry, f"pools[{number}]") for number, entry in enumerate(entries)]
    _once([pool.name for pool in pools], "two pools are named")
    _once([pool.target for pool in pools], "two pools have the Deployment")
    _once([key for pool in pools if not pool.retiring for key in pool.environments], "two pools serve")
    return Scaling(tuple(pools), cap)


def _pool(entry: Any, where: str) -> ScaledPool:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: an object is right")
    known = {"name", "environments", "deployment", "mode", "retiring", "drain_budget", *_NUMBERS}
    if unknown := sorted(set(entry) - known):
        raise ValueError(f"{where}.{unknown[0]}: there is no such key; there are {', '.join(sorted(known))}")
    name, environments = entry.get("name"), entry.get("environments")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}.name: a name is right")
    if (
        not isinstance(environments, list)
        or not environments
        or not all(isinstance(e, str) and "@" in e for e in environments)
    ):
        raise ValueError(f"{where}.environments: a list of name@version is right")
    mode, deployment = entry.get("mode", "direct"), entry.get("deployment", "")
    if mode not in MODES:
        raise ValueError(f"{where}.mode: one of {', '.join(MODES)} is right; got {mode!r}")
    if not isinstance(deployment, str):
        raise ValueError(f"{where}.deployment: a name is right")
    retiring, budget = entry.get("retiring", False), entry.get("drain_budget", 2)
    if not isinstance(retiring, bool):
        raise ValueError(f"{where}.retiring: true or false is right")
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise ValueError(f"{where}.drain_budget: a whole number of at least 1 is right")
    if retiring:
        entry = {**entry, "min_hosts": 0, "buffer_min": 0, "buffer_factor": 0}
    numbers = {key: value for key, value in entry.items() if key in _NUMBERS}
    for key, value in numbers.items():
        whole = _NUMBERS[key] in (int, "int")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError(f"{where}.{key}: a {'whole ' if whole else ''}number is right; got {value!r}")
    try:
        policy = PoolPolicy(**numbers)
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).partition('; got')[0]}") from None
    return ScaledPool(
        name=name,
        environments=tuple(environments),
        policy=policy,
        deployment=deployment,
        mode=mode,
        retiring=retiring,
        drain_budget=budget,
    )


def _once(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} {name!r}")
