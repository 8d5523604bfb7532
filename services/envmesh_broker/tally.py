"""What a host's reports say has happened: each thing counted once, by one broker, however often said (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from envmesh.v1 import environment_pb2, fleet_pb2
from envmesh_broker.hosts import HostRecord

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """What has been counted of one host. Its reports say everything since its start, and what of that an earlier broker
    has heard of; ``class_none`` names its environments whose episodes nobody can rebuild, ``live`` counts those."""

    identity: fleet_pb2.HostIdentity
    class_none: frozenset[str]
    interrupted: dict[tuple[str, int], int]
    drains: int
    live: int = 0
    record: HostRecord | None = None

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
        return cls(identity, class_none, before.interrupted, before.drains, before.live, before.record)

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
