"""What a host's reports say has happened: each thing counted once, by one broker, however often said (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from envmesh.v1 import environment_pb2, fleet_pb2
from envmesh_broker.hosts import HostRecord

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """What has been counted of one host. Its reports say everything since its start, and what of that an earlier broker
    has heard of; ``class_none`` names its environments whose episodes nobody can rebuild, ``live`` counts those.
    ``totals`` are of its last report, by environment: they only rise while its process lives."""

    identity: fleet_pb2.HostIdentity
    class_none: frozenset[str]
    interrupted: dict[tuple[str, int], int]
    drains: int
    live: int = 0
    record: HostRecord | None = None
    totals: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, identity: fleet_pb2.HostIdentity, before: Tally | None) -> Tally:
        """Of a host that registers, or does so again."""
        class_none = frozenset(
            f"{info.name}@{info.version}"
            for info in identity.environments
            if info.recovery == environment_pb2.RECOVERY_CLASS_NONE
        )
        if before is None:
            return cls(identity, class_none, {}, 0)
        return replace(before, identity=identity, class_none=class_none)

    def lost_since(self, report: fleet_pb2.HostReport) -> int:
        """Episodes that were lost with the process before this one, where a container was started again: the host has
        the id of its pod, as before, but its totals have fallen. What it says is counted from nothing then."""
        totals = {
            load.environment: (load.begun, load.ended, load.failed, load.steps)
            for load in report.environments
        }
        fallen = any(
            now < before
            for environment, row in totals.items()
            for now, before in zip(row, self.totals.get(environment, row), strict=True)
        ) or any(
            row.episodes < self.interrupted.get((load.environment, row.reason), 0)
            for load in report.environments
            for row in load.interrupted
        )
        self.totals = totals
        if not fallen:
            return 0
        lost, self.live, self.drains = self.live, 0, 0
        self.interrupted.clear()
        return lost

    def interrupted_since(self, report: fleet_pb2.HostReport) -> Iterator[tuple[int, int]]:
        """(reason, episodes) that are new in a report."""
        for load in report.environments:
            for row in load.interrupted:
                key = load.environment, row.reason
                counted = max(self.interrupted.get(key, 0), row.known)
                if row.episodes > counted:
                    yield row.reason, row.episodes - counted
                self.interrupted[key] = row.episodes

    def drains_since(self, report: fleet_pb2.HostReport) -> Iterator[fleet_pb2.EndedDrain]:
        """Drains that are new in a report."""
        for drain in report.drains:
            if drain.number > self.drains:
                self.drains = drain.number
                if not drain.known:
                    yield drain
