"""What to do about a pool: raise, drain, take back, count out (pure).

Up is one write. Down is three steps: hosts are drained, they seal themselves when they are empty, and only hosts that
said so are counted out. ``replicas = hosts + draining + silent``, so a drain never makes room for nobody.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from envmesh_autoscaler.demand import PoolPolicy, Terms

__all__ = ["HostFacts", "Phase", "Plan", "Planner", "PoolFacts", "allot", "answer", "hold_reason"]

RAISE_SECONDS = 0.25
STALE_SECONDS = 5.0
DISAGREEMENT_SECONDS = 5.0
IMPATIENT_SECONDS = 1.0


class Phase(enum.StrEnum):
    """What a host of a pool is doing, as broker and backend together see it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    SEALED = "sealed"
    SILENT = "silent"


class HostFacts(NamedTuple):
    """One host that the backend counts among its pool's replicas and that was not counted out.

    A tuple, because ten thousand are made for every look, and a frozen dataclass takes three times as long to make.
    """

    host_id: str
    phase: Phase
    in_use: int = 0
    idle: int = 0
    """Leased slots without an episode."""
    ours: bool = False
    """Whether its drain is a scale-in's, which can be taken back."""
    leaving: bool = False
    """Its machine goes: it is to be drained, and its drain is never taken back."""
    pinned: bool = False
    stranded: bool = False
    """It was never scheduled, or failed to start for long: it holds nothing and may be counted out as it is."""
    removable: bool = True
    """Whether the backend can be sure that counting out takes this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """A pool as it is."""

    replicas: int
    """What was asked for last."""
    hosts: tuple[HostFacts, ...]
    hold: str = ""
    """Why nothing may be lowered now; empty: it may."""
    unsettled: str = ""
    """Why replicas cannot be lowered just now, though hosts may be drained; empty: they can."""
    ceiling: int | None = None
    """Bound on replicas from the cap over all pools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, and why. Names of hosts are their ids."""

    replicas: int
    """What to ask for; as it is where nothing is to be changed."""
    wanted: int
    drain: tuple[str, ...] = ()
    take_back: tuple[str, ...] = ()
    count_out: tuple[str, ...] = ()
    reason: str = ""

    @property
    def acts(self) -> bool:
        """Whether anything is to be done at all, the replicas aside."""
        return bool(self.drain or self.take_back or self.count_out)


class Planner:
    """Plans for one pool. It remembers when it raised, and which hosts would not empty."""

    def __init__(self, policy: PoolPolicy) -> None:
        self.policy = policy
        self._raised_at = -1e9
        self._raised_to = -1
        self._drains: dict[str, float] = {}
        self._stubborn: dict[str, float] = {}

    def plan(self, terms: Terms, facts: PoolFacts, now: float) -> Plan:
        """What to do now."""
        ceiling = (
            self.policy.max_hosts if facts.ceiling is None else min(facts.ceiling, self.policy.max_hosts)
        )
        draining = [h for h in facts.hosts if h.phase is Phase.DRAINING or h.phase is Phase.SEALED]
        self._follow(draining, now)
        silent = sum(host.phase is Phase.SILENT for host in facts.hosts)
        active = facts.replicas - len(draining) - silent
        drain = [h.host_id for h in facts.hosts if h.leaving and h.phase in (Phase.READY, Phase.STARTING)]
        hosts = min(terms.hosts, ceiling)
        if hosts > active - len(drain):
            return self._raise(hosts, active, draining, drain, ceiling, terms, facts, now)
        return self._lower(hosts, active, draining, drain, terms, facts, now)

    def _raise(
        self,
        hosts: int,
        active: int,
        draining: list[HostFacts],
        drain: list[str],
        ceiling: int,
        terms: Terms,
        facts: PoolFacts,
        now: float,
    ) -> Plan:
        """Take drains back first: the fullest, for they are the least done. Then ask for more."""
        missing = hosts - (active - len(drain))
        movable = [h for h in draining if h.ours and not h.leaving]
        movable.sort(key=lambda h: (h.phase is Phase.SEALED, -h.in_use, -h.idle, h.host_id))
        back = [host.host_id for host in movable[:missing]]
        wanted = min(facts.replicas + missing - len(back), max(ceiling, facts.replicas))
        replicas = facts.replicas
        if wanted > replicas and (now - self._raised_at >= RAISE_SECONDS or wanted <= self._raised_to):
            self._raised_at, self._raised_to, replicas = now, wanted, wanted
        sealed = [h.host_id for h in draining if h.phase is Phase.SEALED and h.host_id not in back]
        out = (
            [] if facts.hold or facts.unsettled or replicas > facts.replicas else self._leaving(sealed, facts)
        )
        reason = f"up: {terms.reason}"
        if out:
            reason = f"{len(out)} sealed hosts whose machines go are counted out"
        return Plan(
            replicas=replicas - len(out),
            wanted=hosts,
            drain=tuple(drain),
            take_back=tuple(back),
            count_out=tuple(out),
            reason=reason,
        )

    def _leaving(self, sealed: list[str], facts: PoolFacts) -> list[str]:
        """At the bound, a sealed host that cannot come back makes room for another."""
        by_id = {host.host_id: host for host in facts.hosts}
        return [h for h in sealed if by_id[h].removable and (by_id[h].leaving or not by_id[h].ours)]

    def _lower(
        self,
        hosts: int,
        active: int,
        draining: list[HostFacts],
        drain: list[str],
        terms: Terms,
        facts: PoolFacts,
        now: float,
    ) -> Plan:
        if facts.hold:
            return Plan(
                replicas=facts.replicas, wanted=hosts, drain=tuple(drain), reason=f"hold: {facts.hold}"
            )
        surplus = active - len(drain) - hosts
        stranded = [
            h.host_id for h in facts.hosts if h.phase is Phase.STARTING and h.stranded and h.removable
        ]
        stranded = [] if facts.unsettled else stranded[:surplus]
        back = self._impatient(draining, facts, now)
        # Hosts that are not ready go first; those that still may become ready are waited for.
        # A roll has more hosts than were asked for: which of them go is its own business.
        starting = max(0, active - sum(host.phase is Phase.READY for host in facts.hosts))
        surplus = max(0, surplus - starting) + len(back)
        if surplus:
            drain += [victim.host_id for victim in self._victims(facts)[:surplus]]
        out = list(stranded)
        if not facts.unsettled:
            out += [h.host_id for h in draining if h.phase is Phase.SEALED and h.removable]
        parts = [f"{len(drain)} drained" if drain else "", f"{len(back)} taken back" if back else ""]
        parts.append(f"{len(out)} counted out" if out else "")
        if facts.unsettled and any(h.phase is Phase.SEALED for h in draining):
            parts.append(f"sealed hosts wait: {facts.unsettled}")
        done = ", ".join(part for part in parts if part)
        return Plan(
            replicas=facts.replicas - len(out),
            wanted=hosts,
            drain=tuple(drain),
            take_back=tuple(back),
            count_out=tuple(out),
            reason=f"{done}: {terms.reason}" if done else f"as it is: {terms.reason}",
        )

    def _impatient(self, draining: list[HostFacts], facts: PoolFacts, now: float) -> list[str]:
        """Hosts that would not empty, as far as others can be chosen in their place."""
        late = [
            host.host_id
            for host in draining
            if host.phase is Phase.DRAINING
            and host.ours
            and not host.leaving
            and now - self._drains[host.host_id] > self.policy.drain_patience
        ]
        if late:
            late = late[: len(self._victims(facts))]
            self._stubborn.update(dict.fromkeys(late, now + self.policy.drain_patience))
        return late

    def _victims(self, facts: PoolFacts) -> list[HostFacts]:
        """By what they still have to do: an idle slot is nearly nothing."""
        choice = [
            host
            for host in facts.hosts
            if host.phase is Phase.READY
            and not (host.pinned or host.leaving or host.host_id in self._stubborn)
        ]
        choice.sort(key=lambda host: (host.in_use, host.idle, host.host_id))
        return choice

    def _follow(self, draining: Iterable[HostFacts], now: float) -> None:
        self._drains = {h.host_id: self._drains.get(h.host_id, now) for h in draining}
        self._stubborn = {host: until for host, until in self._stubborn.items() if until > now}

    def forget_raise(self) -> None:
        """The raise that was planned last was not carried out: plan it anew."""
        self._raised_at, self._raised_to = -1e9, -1

    def oldest_drain(self, now: float) -> float:
        """The age of the oldest drain, in seconds; 0: none."""
        return max((now - since for since in self._drains.values()), default=0.0)


def hold_reason(
    *,
    complete: bool,
    age: float,
    uptime: float,
    leading: float,
    look_back: float,
    disagreement: float,
    oldest: float,
) -> str:
    """Why nothing may be lowered: blindness is not idleness. Times in seconds; ``age`` is the picture's, ``uptime`` the
    broker's, ``leading`` for how long this autoscaler has led and known the pool, ``disagreement`` for how long broker
    and backend have disagreed about the ready hosts, ``oldest`` the age of the oldest request that could be met. Empty:
    it may."""
    if age > STALE_SECONDS:
        return f"the broker was last heard {age:.0f} s ago"
    if not complete:
        return "the broker's picture is not complete"
    if disagreement > DISAGREEMENT_SECONDS:
        return "the broker and the backend disagree about the ready hosts"
    if min(uptime, leading) < look_back:
        who = "the broker" if uptime < leading else "what this autoscaler remembers"
        return f"{who} is younger than the look-back of {look_back:g} s"
    if oldest > IMPATIENT_SECONDS:
        return f"a request has waited for {oldest:.1f} s"
    return ""


def answer(plan: Plan, *, replicas: int, left_out: int, settled: bool) -> int:
    """What to answer to somebody else who writes replicas, and does so later. ``left_out`` of the ``replicas`` were
    left out of an answer before: they are never unsealed, so they are no capacity, and the plan was made without them.
    A raise must reckon with their still being there; and nothing is lowered while it is not sure who would go."""
    without = replicas - left_out
    if plan.replicas > without:
        return plan.replicas + left_out
    return plan.replicas if settled else replicas


def allot(cap: int, wants: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Share a cap on hosts over all pools: by pool, the most replicas it may have. ``wants`` says what each has and
    what it would have. What is there is never taken by this; what is left goes out evenly, smallest wish first."""
    ceilings = {name: have for name, (have, _) in wants.items()}
    left = cap - sum(ceilings.values())
    wishes = sorted((want - have, name) for name, (have, want) in wants.items() if want > have)
    for number, (wish, name) in enumerate(wishes):
        given = max(0, min(wish, left // (len(wishes) - number)))
        ceilings[name] += given
        left -= given
    return ceilings
