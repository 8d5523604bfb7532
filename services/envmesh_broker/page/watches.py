"""Who looks at which episode, and what hosts tell of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from envmesh.v1 import fleet_pb2

__all__ = ["Follower", "Watches"]

MOST_FOLLOWERS = 16
KEPT_TELLINGS = 200


@dataclass(slots=True)
class Follower:
    """Somebody who follows an environment's episodes, or one episode. ``host_id`` is the host that was asked; a single
    episode is asked of all hosts."""

    watch: fleet_pb2.Watch
    host_id: str = ""
    told: deque[fleet_pb2.WatchedSteps] = field(default_factory=lambda: deque(maxlen=KEPT_TELLINGS))
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class Watches:
    """All who look now."""

    def __init__(self) -> None:
        self._followers: dict[int, Follower] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._followers)

    def follow(
        self, *, environment: str = "", episode_id: bytes = b"", values: bool = False
    ) -> Follower | None:
        """Begin to look; None where too many do."""
        if len(self._followers) >= MOST_FOLLOWERS:
            return None
        watch = fleet_pb2.Watch(
            watch_id=self._next, environment=environment, episode_id=episode_id, values=values
        )
        self._next += 1
        follower = self._followers[watch.watch_id] = Follower(watch)
        return follower

    def leave(self, follower: Follower) -> None:
        """Look no more."""
        self._followers.pop(follower.watch.watch_id, None)

    def of_host(self, host_id: str) -> Iterable[fleet_pb2.Watch]:
        """What this host shall tell."""
        return [
            follower.watch
            for follower in self._followers.values()
            if follower.watch.episode_id or follower.host_id == host_id
        ]

    def hear(self, report: fleet_pb2.HostReport) -> None:
        """Hand on what a host tells."""
        for steps in report.watched:
            if (follower := self._followers.get(steps.watch_id)) is not None:
                follower.told.append(steps)
                follower.ready.set()

    def assign(self, reports: dict[str, fleet_pb2.HostReport]) -> None:
        """Give each who follows an environment a host that has live episodes of it; one that has is kept."""
        for follower in self._followers.values():
            key = follower.watch.environment
            if key and not _live(reports.get(follower.host_id), key):
                live = {host: _live(report, key) for host, report in reports.items()}
                busiest = max(live, key=live.__getitem__, default="")
                if busiest and live[busiest]:
                    follower.host_id = busiest


def _live(report: fleet_pb2.HostReport | None, key: str) -> int:
    if report is None:
        return 0
    return sum(load.live for load in report.environments if load.environment == key)
