"""Episodes between two copies: who lost one, where it goes on, and in which order.

``rebuild.py`` judges; this carries it out. While an episode has no copy, a ``Rebuild`` stands in for its connection:
what the episode sends meanwhile is kept (it is one command at most) and goes to the new copy once that stands. Neither
a user's coroutine nor a policy notices anything but the pause.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from envmesh.episode_session import LOSS_OF_REASON, EpisodeSession
from envmesh.errors import EnvmeshError, EpisodeAborted, EpisodeTakenOver
from envmesh.lane import Lane
from envmesh.lost_host import LostHost, pause_again
from envmesh.rebuild import Loss, Standing, Way, judge_loss, unexplained
from envmesh.rebuilding import Rebuild
from envmesh.slot import AttachedSlot, Slot
from envmesh.statistics import Statistics
from envmesh.suspects import Suspects
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import error_reason_pb2, placement_pb2

if TYPE_CHECKING:
    from envmesh.delivery import Session
    from envmesh.mesh import Mesh
    from envmesh.outcome import EnvironmentSpec
    from envmesh.stream import HostConnection

__all__ = ["Recovery"]

log = logging.getLogger("envmesh.client")

TAKE_UP_SECONDS = 3.0
AVOIDED_SECONDS = 30.0
"""A host that was lost gets no episode of ours for so long, unless it is reached again."""
MOST_PAUSES = 1000
"""Hosts whose last loss is remembered."""


class Recovery:
    """The episodes of one client that are without a copy."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.statistics = Statistics()
        self.rebuilds: set[Rebuild] = set()
        self._lanes: dict[HostConnection, dict[str, Lane]] = {}
        self._suspects: dict[HostConnection, Suspects] = {}
        self._lost: dict[str, LostHost] = {}
        self._avoided: dict[str, float] = {}
        self._pauses: dict[str, tuple[float, float]] = {}
        self._diverged: set[tuple[str, str]] = set()

    # ---- losses

    def connection_lost(self, connection: HostConnection, error: EnvmeshError) -> None:
        """Every copy behind a connection is out of reach."""
        if connection.draining and connection.parted and self._nothing_on(connection):
            log.info("host %s has drained, and is gone", connection.address)
            self._suspects.pop(connection, None)
            for session in connection.sessions.values():
                session.fell(error)
            return
        log.warning("the connection to host %s is lost: %s", connection.address, error)
        mesh = self.mesh
        statistics = self.statistics
        statistics.hosts_lost += 1
        statistics.notice_seconds.append(mesh.loop_time() - connection.heard_at)
        lanes = self._lanes.pop(connection, {})
        self._suspects.pop(connection, None)
        lost = LostHost(self, connection)
        before = self._lost.get(connection.host_id)
        self._lost[connection.host_id] = lost
        if before is not None:
            lost.inherit(before)
        sessions, connection.sessions = list(connection.sessions.items()), {}
        loss = Loss.HOST_SILENT if connection.silent else Loss.LINK_LOST
        for handle, session in sessions:
            if isinstance(session, Rebuild):
                session.connection_lost(handle, connection, loss, lost)
            elif isinstance(session, EpisodeSession):
                self._take(session, loss, lost)
            else:
                session.fell(error)
        for lane in lanes.values():
            for rebuild in lane.dissolve():
                rebuild.slot_lost(lost)
        mesh.spawn(lost.run(), name=f"envmesh-return-{connection.address}")

    def pause_before_return(self, host_id: str) -> float:
        """How long to wait before a host that was lost now is tried again, in seconds: not at all, but for one that is
        lost each time it is reached."""
        now = self.mesh.loop_time()
        before, pause = self._pauses.pop(host_id, (-math.inf, 0.0))
        pause = pause_again(now - before, pause)
        self._pauses[host_id] = (now, pause)
        if len(self._pauses) > MOST_PAUSES:
            del self._pauses[next(iter(self._pauses))]
        return pause

    def _nothing_on(self, connection: HostConnection) -> bool:
        """Whether no episode is there or about to be; leases fall with their host."""
        episodes = (isinstance(session, EpisodeSession | Rebuild) for session in connection.sessions.values())
        return not any(episodes) and not self._lanes.get(connection)

    def copy_lost(self, episode: EpisodeSession, error: EnvmeshError) -> bool:
        """A host says that it has no copy any more. Returns whether the episode goes on."""
        loss = LOSS_OF_REASON.get(error.reason)
        if loss is None or self.mesh.closing:
            return False
        self._take(episode, loss, None, error)
        return True

    def explained(self, lost: LostHost, cause: int) -> None:
        """It is known why a host was lost."""
        if cause in (placement_pb2.LOSS_CAUSE_OUTSIDE, placement_pb2.LOSS_CAUSE_ALIVE):
            lost.explained = True
            for rebuild, index in lost.suspects.items():
                rebuild.acquit(index)
        lost.suspects.clear()
        lost.unknown = False
        accused, lost.accused = lost.accused, {}
        for rebuild, loss in accused.items():
            if not rebuild.over and rebuild.slot is None and not rebuild.seeking:
                self.judge(rebuild, loss)
        self._release(self.mesh.loop_time())

    def take_up(
        self,
        episode: EpisodeSession,
        address: str,
        host_id: str,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Go on with an episode of the journal's former owner: its copy at this host, or a new one. ``metadata`` is
        what a gateway needs to find the host."""
        rebuild = Rebuild(self, episode, Loss.CLIENT_RESTARTED, None)
        rebuild.stand_in()
        name = f"envmesh-take-up-{episode.episode_id.hex()[:8]}"
        self.mesh.spawn(self._look_for(rebuild, address, host_id, metadata), name=name)

    async def _look_for(
        self, rebuild: Rebuild, address: str, host_id: str, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        try:
            connection = await self.mesh.reach(address, host_id, metadata, TAKE_UP_SECONDS)
        except EnvmeshError as error:
            log.info("host %s of an episode is not reached: %s", address, error)
            connection = None
        if rebuild.over:
            return
        if connection is not None and connection.host_id == host_id:
            rebuild.return_to(Slot(AttachedSlot(connection, rebuild.episode.spec)))
        else:
            self.judge(rebuild, Loss.HOST_GONE)

    def told_of(self, session: Session, error: EnvmeshError) -> bool:
        """A host says that it has no copy of an episode any more. Returns whether it goes on."""
        if isinstance(session, Rebuild):
            return session.told(error)
        return isinstance(session, EpisodeSession) and self.copy_lost(session, error)

    def _take(self, episode: EpisodeSession, loss: Loss, lost: LostHost | None,
              error: EnvmeshError | None = None) -> None:  # fmt: skip
        if self.mesh.closing:
            episode.fell(EpisodeAborted("the client closed", reason="CANCELLED"))
            return
        if episode.rebuild is not None:  # it was to leave a draining host, and had no slot elsewhere yet
            episode.rebuild.drop()
        rebuild = Rebuild(self, episode, loss, lost, error)
        self.judge(rebuild, loss)

    @staticmethod
    def standing(rebuild: Rebuild) -> Standing:
        """What is known of an episode."""
        episode = rebuild.episode
        return Standing(
            recovery=episode.spec.recovery, index=episode.index, running=rebuild.running,
            journaled=episode.journaled, suspicion=episode.suspicion, alone=rebuild.alone or rebuild.fell_alone,
        )  # fmt: skip

    def judge(self, rebuild: Rebuild, loss: Loss) -> None:
        """Send an episode its way."""
        episode, lost = rebuild.episode, rebuild.lost_host
        gone = lost if loss in (Loss.HOST_SILENT, Loss.HOST_GONE) else None
        explained = gone is not None and gone.explained
        judgement = judge_loss(
            self.standing(rebuild), loss, poison_losses=self.mesh.settings.poison_losses, explained=explained
        )
        if judgement.reason == "POISON" and gone is not None and gone.unknown:
            rebuild.stand_in()  # nobody is convicted before it is known how the host was lost
            gone.accused[rebuild] = loss
            return
        if unexplained(loss):
            rebuild.fell_alone = False
        before, episode.suspicion = episode.suspicion, judgement.suspicion
        if judgement.suspicion is not None and judgement.suspicion != before and gone is not None:
            gone.suspects[rebuild] = judgement.suspicion.index
        if judgement.way is Way.FALL:
            rebuild.fall(rebuild.why(loss, judgement.reason), judgement.reason)
        elif judgement.way is Way.STAY:
            rebuild.drop()
        elif judgement.way is Way.RETURN and lost is not None:
            rebuild.stand_in()
            lost.take(rebuild)
        elif judgement.way is Way.HERE and rebuild.slot is not None:
            rebuild.stand_in()
            self.resume(rebuild)
        else:
            if loss is not Loss.DRAIN:
                rebuild.stand_in()
                rebuild.leave_slot()
            rebuild.seek()

    # ---- drains

    def draining(self, connection: HostConnection) -> None:
        """A host sends its episodes away: each takes a slot elsewhere first, and plays on until it has one."""
        connection.draining = True
        for pool in self.mesh.pools_of_slots():
            pool.forget_idle(connection)
        moving = 0
        for session in list(connection.sessions.values()):
            if isinstance(session, EpisodeSession) and session.rebuild is None:
                self._take(session, Loss.DRAIN, None)
                moving += 1
        if moving:
            log.info("host %s drains: %d episodes move", connection.address, moving)

    def drain_cancelled(self, connection: HostConnection) -> None:
        """A drain was taken back: who has no slot elsewhere yet stays."""
        connection.draining = False
        self.reached(connection.host_id)
        for rebuild in list(self.rebuilds):
            if rebuild.old is connection and rebuild.slot is None and rebuild.cause is Loss.DRAIN:
                rebuild.stay()

    def noticed(self, connection: HostConnection, notice: pb.Notice) -> None:
        """A host tells something without being asked."""
        if notice.kind == pb.NOTICE_KIND_SLOTS_RETURNED:
            for pool in self.mesh.pools_of_slots():
                pool.slots_returned(connection, notice.lease_number, notice.count)
        elif notice.kind == pb.NOTICE_KIND_DRAINING:
            self.draining(connection)
        elif notice.kind == pb.NOTICE_KIND_DRAIN_CANCELLED:
            self.drain_cancelled(connection)
        elif notice.kind in (pb.NOTICE_KIND_TAKEN_OVER, pb.NOTICE_KIND_EXPIRED, pb.NOTICE_KIND_COPIES_LOST):
            taken_over = notice.kind == pb.NOTICE_KIND_TAKEN_OVER
            reason = "TAKEN_OVER" if taken_over else _cause(notice.failure)
            kind = EpisodeTakenOver if taken_over else EpisodeAborted
            error = kind(notice.failure.message or "another client owns the episode now", reason=reason)
            for handle in notice.handles:
                session = connection.sessions.get(handle)
                if session is not None and not self.told_of(session, error):
                    session.fell(error)

    # ---- slots

    def avoid(self, host_id: str, seconds: float = AVOIDED_SECONDS) -> None:
        """Take no slot on this host for a while."""
        self._avoided[host_id] = self.mesh.loop_time() + seconds

    def reached(self, host_id: str) -> None:
        """The host is there again."""
        self._avoided.pop(host_id, None)

    def avoided(self) -> list[str]:
        """Hosts to take no slot on, by id."""
        now = self.mesh.loop_time()
        for host_id in [host_id for host_id, until in self._avoided.items() if until < now]:
            del self._avoided[host_id]
        return sorted(self._avoided)

    def refuses(self, spec: EnvironmentSpec, journal_build: str) -> bool:
        """Whether a slot's build is known to diverge from journals of another one."""
        return spec.build != journal_build and (spec.key, spec.build) in self._diverged

    def diverged(self, spec_key: str, build: str, journal_build: str, error: EnvmeshError) -> None:
        """A replay differed. After a change of build, nothing else is rebuilt onto that build."""
        self.statistics.divergences += 1
        if build == journal_build:
            log.error("an episode of %s cannot be rebuilt: %s", spec_key, error)
        elif (spec_key, build) not in self._diverged:
            self._diverged.add((spec_key, build))
            log.error(
                "build %s of %s does not repeat what build %s did: no more episodes are rebuilt onto it (%s)",
                build[:12], spec_key, journal_build[:12], error,
            )  # fmt: skip

    # ---- resuming

    def resume(self, rebuild: Rebuild) -> None:
        """Rebuild the episode in the slot it has, in its turn."""
        assert rebuild.slot is not None
        connection = rebuild.slot.connection
        if connection.lost is not None:
            rebuild.leave_slot()
            rebuild.seek()
            return
        lanes = self._lanes.setdefault(connection, {})
        key = rebuild.episode.spec.key
        if key not in lanes:
            lanes[key] = Lane(connection, self.mesh.loop_time)
        lanes[key].enter(rebuild)

    def left_lane(self, rebuild: Rebuild, connection: HostConnection, size: int) -> None:
        """An episode that was to be rebuilt there has been answered, or is not wanted."""
        lane = self._lanes.get(connection, {}).get(rebuild.episode.spec.key)
        if lane is not None:
            lane.left(rebuild, size)

    def suspects(self, connection: HostConnection) -> Suspects:
        """Those of a host whose steps run one at a time."""
        return self._suspects.setdefault(connection, Suspects())

    def arrived(self, episode: EpisodeSession, connection: HostConnection) -> None:
        """An episode stands on a host that may have begun to drain meanwhile: it moves on."""
        if connection.draining and episode.rebuild is None:
            self._take(episode, Loss.DRAIN, None)

    def done(self, rebuild: Rebuild) -> None:
        """An episode stands again."""
        self.rebuilds.discard(rebuild)
        statistics = self.statistics
        statistics.count_resume("replay" if rebuild.replayed else "live", str(rebuild.cause))
        statistics.replayed_steps += rebuild.replayed
        statistics.resume_seconds.append(self.mesh.loop_time() - rebuild.started)

    # ---- the clock

    def tick(self, now: float) -> None:
        """Give up those whose time is over."""
        timeout = self.mesh.settings.recovery_timeout
        for rebuild in list(self.rebuilds):
            if not rebuild.live_copy and now - rebuild.started > timeout:
                rebuild.fall_back(
                    f"it could not be rebuilt within {timeout:g} s: {rebuild.waits_for()}",
                    "REPLAY_DIVERGED" if rebuild.differed else "HOST_LOST",
                )
        self._release(now)

    def _release(self, now: float) -> None:
        for lanes in list(self._lanes.values()):
            for lane in list(lanes.values()):
                lane.release(now)

    def close(self) -> None:
        """Nothing is rebuilt any more."""
        for rebuild in list(self.rebuilds):
            rebuild.drop()
        self._lanes.clear()
        self._suspects.clear()

    # ---- hosts that are reached again

    def forget(self, lost: LostHost) -> None:
        """Nothing is left to do at a lost host."""
        if self._lost.get(lost.host_id) is lost:
            del self._lost[lost.host_id]


def _cause(failure: pb.Failure) -> str:
    name = error_reason_pb2.ErrorReason.Name(failure.cause)
    return name.removeprefix("ERROR_REASON_") if failure.cause else "HOST_LOST"
