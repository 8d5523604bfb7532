"""The broker's picture of the fleet, as the plan reads it (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from envmesh.v1 import fleet_pb2
from envmesh_autoscaler.demand import Signals
from envmesh_autoscaler.observation import FleetHost, Waits
from envmesh_autoscaler.plan import Phase

__all__ = ["Picture", "read_picture"]

_PHASES = {
    fleet_pb2.HOST_STATE_STARTING: Phase.STARTING,
    fleet_pb2.HOST_STATE_READY: Phase.READY,
    fleet_pb2.HOST_STATE_DRAINING: Phase.DRAINING,
    fleet_pb2.HOST_STATE_SEALED: Phase.SEALED,
    fleet_pb2.HOST_STATE_SILENT: Phase.SILENT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the broker says. Times in seconds."""

    hosts: Mapping[str, Mapping[str, FleetHost]] = field(default_factory=dict)
    """By pool and host id."""
    queues: Mapping[str, Waits] = field(default_factory=dict)
    reservations: Sequence[tuple[str, int, float]] = ()
    """Environment, slots missing, seconds until they are wanted."""
    use: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By environment: slots taken, and how many of it a host may have."""
    complete: bool = False
    uptime: float = 0.0

    def waits(self, environments: Sequence[str]) -> Waits:
        """What waits for a pool that serves these."""
        rows = [waits for name, waits in self.queues.items() if _served(name, environments)]
        return Waits(
            sum(row.admissible for row in rows),
            sum(row.relocating for row in rows),
            max((row.oldest for row in rows), default=0.0),
        )

    def reserved(self, environments: Sequence[str], within: float) -> int:
        """Slots reserved for the next ``within`` seconds."""
        return sum(
            missing
            for name, missing, starts_in in self.reservations
            if starts_in <= within and _served(name, environments)
        )

    def bounded(self, environments: Sequence[str], signals: Signals, *, retiring: bool = False) -> int:
        """Hosts that a pool needs for an environment of which a host may have only a few: for what is taken, of which
        the pool has at most what is leased there, and for what waits. A retiring pool gets only what moves."""
        needed = 0
        for name, (taken, host_slots) in self.use.items():
            if host_slots and host_slots < (signals.slots or math.inf) and _served(name, environments):
                waits = self.waits((name,))
                queued = waits.relocating if retiring else waits.admissible
                needed = max(needed, math.ceil((min(taken, signals.leased) + queued) / host_slots))
        return needed


def read_picture(fleet: fleet_pb2.Fleet) -> Picture:
    """The picture of a message."""
    hosts: dict[str, dict[str, FleetHost]] = {}
    for status in fleet.hosts:
        own = status.identity
        hosts.setdefault(own.pool, {})[own.host_id] = FleetHost(
            host_id=own.host_id,
            pool=own.pool,
            name=own.name,
            phase=_PHASES.get(status.state, Phase.SILENT),
            slots=own.slots,
            in_use=status.in_use,
            idle=status.idle,
            ended=status.ended,
        )
    queues = {
        row.environment: Waits(
            row.admissible, row.relocating, row.oldest.ToNanoseconds() / 1e9 if row.admissible else 0.0
        )
        for row in fleet.queues
    }
    return Picture(
        hosts=hosts,
        queues=queues,
        reservations=[
            (row.environment, row.missing, row.starts_in.ToNanoseconds() / 1e9) for row in fleet.reservations
        ],
        use={row.environment: (row.leased, row.host_slots) for row in fleet.environments},
        complete=fleet.complete,
        uptime=fleet.uptime.ToNanoseconds() / 1e9,
    )


def _served(name: str, environments: Sequence[str]) -> bool:
    """Whether a name, with or without its version, is one of these."""
    return name in environments or (
        "@" not in name and any(e.partition("@")[0] == name for e in environments)
    )
