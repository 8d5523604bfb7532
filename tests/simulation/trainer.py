"""A client in the simulated world: its links to hosts, and what it makes of their loss."""

from __future__ import annotations

from collections import deque
from typing import Any

from envmesh.env import Recovery
from envmesh.outcome import EnvironmentSpec
from envmesh.rebuild import Loss, acquit
from envmesh.v1 import environment_pb2 as pb
from tests.simulation.host import DEFINITIONS, WINDOW, SimulatedHost
from tests.simulation.link import Link
from tests.simulation.player import Player
from tests.simulation.world import World

__all__ = ["LostHost", "Trainer"]

EXPLAINED = 0.5


class LostHost:
    """One loss of a host: who was suspected of it (with the index of the step), who would be convicted of it."""

    def __init__(self, host_id: str):
        self.host_id = host_id
        self.suspects: dict[Player, int] = {}
        self.accused: dict[Player, Loss] = {}
        self.explained = False
        self.unknown = True


class Trainer:
    """All episodes of one client."""

    def __init__(self, world: World):
        self.world = world
        self.specs = {name: EnvironmentSpec(served.info) for name, (_, served) in DEFINITIONS.items()}
        self.players: list[Player] = []
        self.links: dict[str, Link] = {}
        self.abandoned: dict[str, dict[bytes, int]] = {}
        self.waiting: deque[Player] = deque()
        self.alone: Player | None = None
        self.closed = False

    def begin(self, environment: str, seed: int) -> None:
        """Another episode."""
        player = Player(self, environment, seed)
        self.players.append(player)
        player.seek()

    @property
    def finished(self) -> bool:
        """Whether every episode is over."""
        return all(player.over for player in self.players)

    def link_to(self, host: SimulatedHost) -> Link | None:
        """The connection to a host, opened if it is not; None where it cannot be reached now. What was given up there
        is closed before anything else is said."""
        link = self.links.get(host.host_id)
        if link is not None and link.open:
            return link
        if not host.alive or max(host.cut_until, host.frozen_until) > self.world.now:
            return None
        link = self.links[host.host_id] = Link(host, self._hear, self._link_lost)
        for episode_id, epoch in self.abandoned.pop(host.host_id, {}).items():
            request = pb.CloseRequest(episode_id=episode_id, epoch=epoch)
            link.send(pb.COMMAND_KIND_CLOSE, next(link.handles), 0, request.SerializeToString())
        return link

    def abandon(self, host: SimulatedHost, player: Player) -> None:
        """The copy there is not wanted any more."""
        self.abandoned.setdefault(host.host_id, {})[player.state.episode_id] = player.state.epoch

    def _hear(self, link: Link, row: Any) -> None:
        if row[2] == pb.EVENT_KIND_NOTICE:
            self._noticed(link, pb.Notice.FromString(row[3]))
        elif row[0] in link.sessions:
            link.sessions[row[0]].hear(row)

    def _noticed(self, link: Link, notice: pb.Notice) -> None:
        if notice.kind == pb.NOTICE_KIND_DRAINING:
            for player in list(link.sessions.values()):
                player.drained()
        elif notice.kind == pb.NOTICE_KIND_COPIES_LOST:
            for handle in notice.handles:
                if handle in link.sessions:
                    link.sessions[handle].lost(Loss.WORKER_LOST)

    def _link_lost(self, link: Link, loss: Loss = Loss.LINK_LOST) -> None:
        sessions, link.sessions = list(dict.fromkeys(link.sessions.values())), {}
        lost = LostHost(link.host.host_id)
        for player in sessions:
            if player.over:
                continue
            none = player.state.index >= 0 and player.state.spec.recovery is Recovery.NONE
            if player.phase in ("showing", "attaching", "returning") and not none:
                self.abandon(link.host, player)
                player.seek()  # its step was not running there
            else:
                player.lost_host = lost
                player.lost(loss)
        self.world.after(EXPLAINED, self._explained, lost)

    def _explained(self, lost: LostHost) -> None:
        """The broker knows whether the host was ended from outside, or is there: then no step did it."""
        alive = any(host.host_id == lost.host_id for host in self.world.hosts)
        lost.unknown, lost.explained = False, alive or lost.host_id in self.world.explained
        if lost.explained:
            for player, index in lost.suspects.items():
                player.state.suspicion = acquit(player.state.suspicion, index)
                if player.state.suspicion is None and player in self.waiting:
                    self.waiting.remove(player)
                    player.step()
        accused, lost.accused = lost.accused, {}
        for player, loss in accused.items():
            if player.phase == "accused":
                player.lost(loss)

    def close(self) -> None:
        """The client goes."""
        for player in self.players:
            self.world.withdraw(player.asked)
        for link in list(self.links.values()):
            link.broken()
        self.closed = True

    def tick(self) -> None:
        """Show signs of life, and miss those of others."""
        if self.closed:
            return
        for host_id, link in list(self.links.items()):
            if not link.open:
                del self.links[host_id]
            elif self.world.now - link.heard > WINDOW:
                link.open = False
                self.world.after(self.world.dice.uniform(0.0, 20.0), link.broken)
                self._link_lost(link, Loss.HOST_SILENT)
            else:
                link.heartbeat(0)
        for host_id in list(self.abandoned):
            host = next((host for host in self.world.hosts if host.host_id == host_id), None)
            if host is None:
                del self.abandoned[host_id]
            else:
                self.link_to(host)
        self.world.after(1.0, self.tick)

    # ---- suspects: one of their steps at a time

    def suspect(self, player: Player) -> None:
        """Its step waits for its turn, and to be acquitted meanwhile."""
        self.waiting.append(player)
        player.later(2 * EXPLAINED, self._next)

    def _next(self) -> None:
        while self.alone is None and self.waiting:
            player = self.waiting.popleft()
            if player.phase == "playing" and player.state.expected > 0 and player.link.open:
                self.alone, player.alone = player, True
                player.step()

    def cleared(self, player: Player) -> None:
        """Its step is done, or it is on another errand."""
        player.alone = False
        if player in self.waiting:
            self.waiting.remove(player)
        if self.alone is player:
            self.alone = None
            self._next()
