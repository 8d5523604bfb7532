"""An episode of the simulated trainer: the real state, journal and judgement, and its errands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envmesh.env import Recovery
from envmesh.episode import NOTHING_EXPECTED, Beginning, EpisodeState
from envmesh.outcome import columns_of_message
from envmesh.rebuild import Loss, Standing, Way, judge_loss, unexplained
from envmesh.stream import failure_of
from envmesh.v1 import environment_pb2 as pb
from envmesh.values import decode, encode
from tests.simulation.host import SimulatedHost, Violation
from tests.simulation.link import Link

if TYPE_CHECKING:
    from tests.simulation.trainer import LostHost, Trainer

__all__ = ["Player", "policy"]

THINK = 0.1


PATIENCE = 4.0


GIVE_UP = 12.0


def policy(observation: Any) -> int:
    """A pure function of what is observed."""
    return int(observation) % 5


class Player:
    """One episode: the real ``EpisodeState``, and where it is on its way."""

    def __init__(self, trainer: Trainer, environment: str, seed: int):
        self.trainer = trainer
        self.world = trainer.world
        self.environment = environment
        self.seed = seed
        spec = trainer.specs[environment]
        self.state = EpisodeState(spec, b"episode:" + seed.to_bytes(8, "big"), Beginning(seed))
        self.link: Link | None = None
        self.handle = 0
        self.lease: tuple[SimulatedHost, bytes, int] | None = None
        self.phase = "new"
        self.errand = 0
        self.alone = self.fell_alone = False
        self.lost_host: LostHost | None = None
        self.attempts = 0
        self.cause = ""
        self.asked = 0
        self.trajectory: list[tuple[int, float, int]] = []

    def __repr__(self) -> str:
        return f"<{self.environment} seed {self.seed} {self.phase} at {self.state.index} {self.cause}>"

    @property
    def over(self) -> bool:
        """Whether nothing is to come."""
        return self.phase == "over"

    def later(self, seconds: float, work: Any, *arguments: Any) -> None:
        """Do something later, unless the episode is on another errand by then."""
        errand = self.errand

        def do() -> None:
            if self.errand == errand:
                work(*arguments)

        self.world.after(seconds, do)

    def turn_to(self, phase: str) -> None:
        """Another errand: whatever was to come of the former one comes no more."""
        self.phase = phase
        self.errand += 1

    # ---- slots

    def seek(self) -> None:
        """Ask the broker for a slot; again, if nothing is heard."""
        self.leave()
        self.turn_to("seeking")
        errand = self.errand
        self.world.withdraw(self.asked)
        self.asked = self.world.ask(
            self.state.spec.key, self.state.index >= 0, lambda grant: self._granted(grant, errand)
        )
        self.later(PATIENCE, self.seek)

    def _granted(self, grant: Any, errand: int) -> None:
        host = next((host for host in self.world.hosts if host.host_id == grant.host_id), None)
        if self.errand != errand or host is None:
            return
        link = self.trainer.link_to(host)
        if link is not None:
            self.turn_to("showing")
            self.show(link, grant.lease_id)

    def show(self, link: Link, token: bytes) -> None:
        """Show a lease to its host."""
        number = next(link.handles)
        self.link, self.handle = link, number
        link.sessions[number] = self
        self.lease = link.host, token, number
        link.send(pb.COMMAND_KIND_BIND, number, 0, token)
        self.later(PATIENCE, self.seek)

    def leave(self) -> None:
        """Let go of the slot, and of the copy in it."""
        if self.link is not None and self.link.open and self.lease is not None:
            if self.phase != "showing":
                self.link.send(pb.COMMAND_KIND_CLOSE, self.handle, 0, b"")
            self.link.sessions.pop(self.handle, None)
            self.link.send(pb.COMMAND_KIND_RETURN, self.lease[2], 0, b"")
        self.link = self.lease = None

    # ---- copies

    def attach(self) -> None:
        """Begin the episode in the slot, or rebuild it there."""
        assert self.link is not None
        assert self.lease is not None
        state, link = self.state, self.link
        self.turn_to("attaching")
        self.attempts += 1
        if self.attempts > 1:
            state.raise_epoch()
        self.link.sessions.pop(self.handle, None)
        self.handle = next(link.handles)
        link.sessions[self.handle] = self
        number = self.lease[2]
        if state.index < 0:
            payload = state.beginning.request(state.episode_id, state.epoch, number)
            state.expect(0, payload)
            link.send(pb.COMMAND_KIND_RESET, self.handle, 0, payload)
            return
        request = pb.ResumeRequest(episode_id=state.episode_id, epoch=state.epoch, lease_number=number,
                                   apart=state.suspicion is not None)  # fmt: skip
        if state.journal is not None:
            request.journal.ParseFromString(state.journal.packed())
        link.send(pb.COMMAND_KIND_RESUME, self.handle, 0, request.SerializeToString())

    def hear(self, row: Any) -> None:
        """An event for the handle."""
        _, index, kind, payload, reward, flags, digest, _ = row
        state = self.state
        if kind == pb.EVENT_KIND_BOUND and self.phase in ("showing", "returning"):
            self.attach()
        elif (
            kind == pb.EVENT_KIND_OUTCOME
            and index == state.expected
            and self.phase in ("attaching", "playing")
        ):
            self._settle(index, payload, reward, flags, digest)
        elif kind == pb.EVENT_KIND_RESUMED and self.phase == "attaching":
            self._resumed(pb.ResumeResponse.FromString(payload))
        elif kind == pb.EVENT_KIND_CHECKPOINT and state.journal is not None:
            state.journal.checkpoint(pb.SealedCheckpoint.FromString(payload))
        elif kind == pb.EVENT_KIND_FAILURE:
            self._failed(failure_of(payload))

    def _resumed(self, response: pb.ResumeResponse) -> None:
        state, last = self.state, response.last
        ahead = last.index - state.index
        running = state.expected != NOTHING_EXPECTED
        if ahead not in (0, 1) or (ahead == 1 and not running):
            raise Violation(f"{self} was resumed at step {last.index}")
        if ahead == 0 and last.digest != self.trajectory[-1][2]:
            raise Violation(f"{self} was resumed with another outcome of step {last.index}")
        self.turn_to("playing")
        self.alone = self.fell_alone = False
        if ahead == 1:
            self._settle(last.index, *columns_of_message(last)[:4])
        elif running and state.suspicion is not None:
            self.trainer.suspect(self)
        elif running:
            self.step()
        else:
            self.later(THINK, self.act)

    def _settle(self, index: int, payload: bytes, reward: float, flags: int, digest: int) -> None:
        state = self.state
        if index != len(self.trajectory):
            raise Violation(f"{self}: outcome {index} where {len(self.trajectory)} was to come")
        self.trajectory.append((decode(payload), reward, digest))
        state.settle(index, flags, digest)
        self.trainer.cleared(self)
        if state.done:
            self.end("")
            return
        self.turn_to("playing")
        self.later(self.world.dice.uniform(0.0, THINK), self.act)

    def act(self) -> None:
        """The next step."""
        if self.phase == "playing" and self.state.expected == NOTHING_EXPECTED:
            self.state.expect(self.state.index + 1, encode(policy(self.trajectory[-1][0])))
            self.step()

    def step(self) -> None:
        """Send the step that is expected, now and then twice: who repeats gets the same reply."""
        if self.phase == "playing" and self.link is not None and self.state.expected > 0:
            for _ in range(1 + (self.world.dice.random() < 0.1)):
                self.link.send(pb.COMMAND_KIND_STEP, self.handle, self.state.expected, self.state.pending)

    # ---- losses

    def _failed(self, error: Any) -> None:
        reason = error.reason
        losses = {
            "WORKER_LOST": Loss.WORKER_LOST, "WORKER_CRASHED": Loss.WORKER_CRASHED,
            "WORKER_SUSPECTED": Loss.WORKER_CRASHED, "EPISODE_UNKNOWN": Loss.COPY_GONE,
        }  # fmt: skip
        if self.phase in ("showing", "attaching", "returning") and reason in (
            "LEASE_INVALID", "NO_CAPACITY", "SLOT_TAKEN", "DRAINING"
        ):  # fmt: skip
            if self.state.index >= 0 and self.state.spec.recovery is Recovery.NONE:
                self.lost(Loss.HOST_GONE)
            else:
                self.seek()
        elif reason in losses:
            self.lost(losses[reason])
        elif self.phase == "attaching" and reason == "EPOCH_STALE":
            self.attach()
        else:
            raise Violation(f"{self}: {reason}: {error}")

    def lost(self, loss: Loss) -> None:
        """The copy is lost: the real judgement says what comes."""
        state = self.state
        if self.alone:
            self.fell_alone = True
        self.trainer.cleared(self)
        standing = Standing(
            recovery=state.spec.recovery, index=state.index, running=state.expected != NOTHING_EXPECTED,
            journaled=state.journal is not None and not state.journal.overflowed, suspicion=state.suspicion,
            alone=self.fell_alone,
        )  # fmt: skip
        gone = self.lost_host if loss in (Loss.HOST_SILENT, Loss.HOST_GONE) else None
        explained = gone is not None and gone.explained
        judgement = judge_loss(standing, loss, poison_losses=2, explained=explained)
        if judgement.reason == "POISON" and gone is not None and gone.unknown:
            self.turn_to("accused")
            gone.accused[self] = loss
            return
        if unexplained(loss):
            self.fell_alone = False
        before, state.suspicion = state.suspicion, judgement.suspicion
        if judgement.suspicion is not None and judgement.suspicion != before and gone is not None:
            gone.suspects[self] = judgement.suspicion.index
        self.world.counts[f"{loss} {judgement.way.name}"] += 1
        if judgement.way is Way.FALL:
            self.end(judgement.reason)
        elif judgement.way is Way.RETURN:
            self.turn_to("returning")
            self.go_back(self.world.now)
        elif judgement.way is Way.HERE and self.link is not None and self.link.open:
            self.attach()
        elif judgement.way is not Way.STAY:
            if self.lease is not None:
                self.trainer.abandon(self.lease[0], self)
            self.link = None if self.link is not None and not self.link.open else self.link
            self.seek()

    def go_back(self, since: float) -> None:
        """Try to reach the host again, show the lease again, and take the copy up."""
        assert self.lease is not None
        host, token, _ = self.lease
        link = self.trainer.link_to(host)
        if link is not None:
            self.show(link, token)
        elif not host.alive or self.world.now - since > GIVE_UP:
            self.lost(Loss.HOST_GONE)
        else:
            self.later(0.5, self.go_back, since)

    def drained(self) -> None:
        """The host sends it away. What can move does so at once, its step repeated elsewhere if one is out."""
        if self.phase == "playing" and self.state.expected == NOTHING_EXPECTED:
            self.lost(Loss.DRAIN)

    def end(self, cause: str) -> None:
        """It is over."""
        self.trainer.cleared(self)
        if self.lease is not None and (self.link is None or not self.link.open):
            self.trainer.abandon(self.lease[0], self)
        self.leave()
        self.cause = cause
        self.turn_to("over")
