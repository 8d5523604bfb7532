"""What a backend sees of a pool, and how that and the broker's picture become facts (pure)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from envmesh_autoscaler.demand import Signals
from envmesh_autoscaler.plan import HostFacts, Phase

__all__ = [
    "FleetHost",
    "Instance",
    "Observation",
    "PoolRecord",
    "Starts",
    "Waits",
    "serving_though_marked",
    "vanished_hosts",
]

RESIDENCE_SECONDS = 600.0
ORDER_SECONDS = 5.0
"""So long an order to drain, or not to, counts as done though no report has shown it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One host as the backend sees it: a pod that is not terminating, or a process."""

    host_id: str
    name: str = ""
    ready: bool = False
    ready_for: float = 0.0
    """Seconds since it became ready."""
    start_seconds: float | None = None
    """How long it took to become ready; None: it has not."""
    ours: bool = False
    """Whether it is marked as drained by a scale-in."""
    sealed: bool = False
    """Whether it is marked as sealed."""
    leaving: bool = False
    pinned: bool = False
    stranded: bool = False
    unschedulable: bool = False
    removable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A pool as the backend sees it. ``instances`` are those among ``replicas`` that exist."""

    replicas: int
    instances: tuple[Instance, ...] = ()
    going: frozenset[str] = frozenset()
    """Hosts that were counted out, or end by themselves."""
    unsettled: str = ""
    hold: str = ""
    """Why the backend does not trust its own view; empty: it does."""
    paused: bool = False
    dry_run: bool = False
    refused: str = ""
    """Why the backend refuses to create hosts, such as a quota; empty: it does not."""


class FleetHost(NamedTuple):
    """One host as the broker sees it; a tuple for the reason that ``HostFacts`` is one."""

    host_id: str
    pool: str
    name: str
    phase: Phase
    slots: int
    in_use: int
    idle: int
    ended: int
    """Episodes that have ended there since it started."""


@dataclass(frozen=True, slots=True)
class Waits:
    """What waits for a pool's environments."""

    admissible: int = 0
    relocating: int = 0
    oldest: float = 0.0


class Starts:
    """How long hosts take to become ready: the median of the last 20, 30 s until one has, 1 to 300 s."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=20)
        self._seen: dict[str, None] = {}

    def follow(self, instances: Iterable[Instance]) -> None:
        """Take note of those that have become ready."""
        for instance in instances:
            if instance.start_seconds is not None and instance.host_id not in self._seen:
                self._seen[instance.host_id] = None
                self._seconds.append(instance.start_seconds)
        while len(self._seen) > 20_000:
            del self._seen[next(iter(self._seen))]

    @property
    def typical(self) -> float:
        """T, in seconds."""
        return min(max(median(self._seconds), 1.0), 300.0) if self._seconds else 30.0


class Residence:
    """How long a slot is in use: slot-seconds lived in the last ten minutes / (ended + live)."""

    def __init__(self) -> None:
        self._rows: deque[tuple[float, float, int]] = deque()
        self._ended: dict[str, int] = {}
        self._live: tuple[float, int] | None = None

    def follow(self, hosts: Iterable[FleetHost], now: float) -> None:
        """Take in a picture."""
        live = ended = 0
        so_far: dict[str, int] = {}
        for host in hosts:
            live += host.in_use
            so_far[host.host_id] = host.ended
            before = self._ended.get(host.host_id)
            if before is not None and host.ended > before:
                ended += host.ended - before
        self._ended = so_far
        if self._live is not None:
            since, was_live = self._live
            self._rows.append((now, (now - since) * (live + was_live) / 2, ended))
        self._live = (now, live)
        while self._rows and now - self._rows[0][0] > RESIDENCE_SECONDS:
            self._rows.popleft()

    @property
    def typical(self) -> float:
        """W, in seconds; infinite while nothing has lived."""
        lived = sum(row[1] for row in self._rows)
        over = sum(row[2] for row in self._rows) + (self._live[1] if self._live else 0)
        return lived / over if over and lived else math.inf


@dataclass(slots=True)
class PoolRecord:
    """What is remembered of a pool between two looks at it."""

    starts: Starts = field(default_factory=Starts)
    residence: Residence = field(default_factory=Residence)
    ordered: dict[str, tuple[bool, float]] = field(default_factory=dict)
    """By host: whether it was told to drain, and when."""
    agreed_at: float | None = None

    def order(self, host_id: str, drain: bool, now: float) -> None:
        """A host was told to drain, or to take its drain back."""
        self.ordered[host_id] = (drain, now)

    def signals(
        self, hosts: Mapping[str, FleetHost], seen: Observation, waits: Waits, reserved: int, now: float
    ) -> Signals:
        """The broker's numbers of this pool. An episode that moves from a draining host is counted once: its slot
        there is leased still, and the one it asks for waits."""
        self.residence.follow(hosts.values(), now)
        leased = moving = 0
        for host in hosts.values():
            leased += host.in_use + host.idle
            if host.phase is Phase.DRAINING:
                moving += host.in_use
        return Signals(
            leased=leased,
            queued=max(0, waits.admissible - min(waits.relocating, moving)),
            reserved=reserved,
            slots=min((host.slots for host in hosts.values()), default=0),
            residence=self.residence.typical,
            start=self.starts.typical,
            oldest=waits.oldest,
        )

    def facts(
        self, hosts: Mapping[str, FleetHost], seen: Observation, now: float
    ) -> tuple[tuple[HostFacts, ...], float]:
        """The pool's hosts, and for how long broker and backend have disagreed about them, in seconds."""
        self.ordered = {h: order for h, order in self.ordered.items() if now - order[1] <= ORDER_SECONDS}
        facts = tuple([self._host(instance, hosts.get(instance.host_id)) for instance in seen.instances])
        known = {instance.host_id for instance in seen.instances}
        unheard = any(
            instance.ready and instance.ready_for > 1.0 and instance.host_id not in hosts
            for instance in seen.instances
        )
        unseen = not hosts.keys() <= known | seen.going
        if self.agreed_at is None or not (unheard or unseen):
            self.agreed_at = now
        return facts, now - self.agreed_at

    def _host(self, instance: Instance, heard: FleetHost | None) -> HostFacts:
        """A host's row; without names, for it is made ten thousand times a look."""
        host_id = instance.host_id
        phase, in_use, idle = (
            (heard.phase, heard.in_use, heard.idle) if heard is not None else (Phase.STARTING, 0, 0)
        )
        order = self.ordered.get(host_id) if self.ordered else None
        if order is not None:
            if order[0] and phase is Phase.READY:
                phase = Phase.DRAINING
            elif not order[0] and phase in (Phase.DRAINING, Phase.SEALED):
                phase = Phase.READY
        stranded = instance.stranded and heard is None
        marks = instance.ours, instance.leaving, instance.pinned, stranded, instance.removable
        return HostFacts(host_id, phase, in_use, idle, *marks)


def vanished_hosts(hosts: Mapping[str, FleetHost], seen: Observation) -> tuple[str, ...]:
    """Silent hosts of which the backend has nothing any more: their ids are of pods or processes that are gone."""
    known = seen.going | {instance.host_id for instance in seen.instances}
    return tuple(h.host_id for h in hosts.values() if h.phase is Phase.SILENT and h.host_id not in known)


def serving_though_marked(facts: Iterable[HostFacts], seen: Observation, age: float) -> tuple[str, ...]:
    """Hosts that serve though their marks say that they may go: one that had sealed itself and was started again, or
    one that never heard of its drain. ``age`` is the picture's, in seconds: it must be newer than the orders that are
    not reckoned with any more."""
    if age > ORDER_SECONDS:
        return ()
    marked = {instance.host_id for instance in seen.instances if instance.ours or instance.sealed}
    return tuple(h.host_id for h in facts if h.phase is Phase.READY and h.host_id in marked)
