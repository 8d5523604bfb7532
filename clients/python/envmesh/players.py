"""Who plays an episode of ``rollouts`` with a synchronous policy: in the connection's reader, or in batches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from envmesh.episode import NOTHING_EXPECTED, Beginning, EpisodeState
from envmesh.episode_session import ELSEWHERE, EpisodeSession
from envmesh.errors import EnvmeshError, EpisodeAborted, Failure, InvalidRequest
from envmesh.grades import read_grade
from envmesh.journal import Journal
from envmesh.outcome import AGENTS, EnvironmentSpec, Resume, Trajectory, make_outcome
from envmesh.policies import Act, for_agents
from envmesh.rebuilding import Rebuild
from envmesh.slot import Slot
from envmesh.stream import failure_of
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.journal_records import Unfinished
    from envmesh.leases import LeasePool
    from envmesh.policy_block import PolicyBlock
    from envmesh.rollout_run import RolloutRun

__all__ = ["PolicyPlayer"]

STEP, RESET = pb.COMMAND_KIND_STEP, pb.COMMAND_KIND_RESET
CLOSE, REWARD = pb.COMMAND_KIND_CLOSE, pb.COMMAND_KIND_REWARD
TRUNCATED = pb.OUTCOME_FLAG_TRUNCATED


class PolicyPlayer(EpisodeState, EpisodeSession):
    """Plays one episode inside the connection's reader. The trajectory's columns are its journal; ``checkpoint`` is the
    state that it restarts from, where there is one."""

    __slots__ = ("act", "acted", "block", "candidate", "checkpoint", "connection", "decode", "encode", "handle", "note",
                 "policy", "rebuild", "retries", "run", "sent_at", "slot", "started", "trajectory")  # fmt: skip

    def __init__(self, run: RolloutRun, slot: Slot, spec: EnvironmentSpec, beginning: Beginning,
                 trajectory: Trajectory, retries: int, block: PolicyBlock | None = None):  # fmt: skip
        super().__init__(spec, trajectory.episode_id, beginning)
        self.block = block
        self.note = trajectory._rows.append
        self.acted = trajectory._actions.append
        self.run = run
        self.slot = slot
        self.connection = slot.connection
        self.trajectory = trajectory
        self.retries = retries
        self.handle = 0
        self.started = self.sent_at = 0.0
        self.decode = spec.observation_codec.decode
        self.encode = spec.action_codec.encode
        self.policy: Any = None
        self.act: Any = None
        self.checkpoint: pb.SealedCheckpoint | None = None
        self.candidate: pb.SealedCheckpoint | None = None
        self.rebuild: Rebuild | None = None
        trajectory.host = self.connection.address

    def begin(self) -> None:
        """Reset the episode."""
        self.prepare()
        connection = self.connection
        self.handle = self.slot.bind(self)
        if self.block is not None:
            self.block.players[self.handle] = self
        self.started = self.sent_at = time.perf_counter()
        payload = self.reset_payload(self.slot.binding.number)
        if len(payload) > connection.max_value_bytes:
            self.run.fail(connection.oversize(len(payload), "the reset with its options"))
            return
        self.expect(0, payload)
        connection.send(self.handle, 0, RESET, payload)

    def prepare(self) -> None:
        """Get the policy ready."""
        if self.run.batch is None:
            self.act = for_agents(self.policy) if self.spec.agents else self.policy

    def take_up(self, unfinished: Unfinished) -> None:
        """Go on with an episode that another process began."""
        self.prepare()
        self.started = self.sent_at = time.perf_counter()
        mesh, trajectory = self.run.mesh, self.trajectory
        assert mesh.journal is not None
        self.log = mesh.journal.log_of(unfinished)
        self.index = unfinished.index
        self.epoch = mesh.journal.owner << 32
        payload, _, flags, _, _ = unfinished.rows[-1]
        self.flags = flags
        if unfinished.checkpoint:
            self.checkpoint = pb.SealedCheckpoint.FromString(unfinished.checkpoint)
        pending = len(unfinished.actions) > self.index
        trajectory.fill(unfinished.rows, unfinished.actions)
        self.note, self.acted = trajectory._rows.append, trajectory._actions.append
        self.expected = self.index + 1 if pending else NOTHING_EXPECTED
        mesh.recovery.take_up(self, *unfinished.host)
        if not pending:
            self.go_on(payload, flags)

    # ---- the fast path

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """An outcome came: note it, and go on."""
        self.note((payload, reward, flags, digest, info))
        self.index = index
        if not index:
            self._begun()
        if self.log is not None:
            self.log.outcome(self.trajectory._rows[-1])
            if self.candidate is not None:
                self._adopt()
        self.go_on(payload, flags)

    def go_on(self, payload: bytes, flags: int) -> None:
        """Ask the policy, and send the next step."""
        if (flags or self.run.max_steps is not None) and self._special(payload, flags):
            return
        act = self.act
        if act is None:
            self.let_think()
            self.run.batch.add(self, payload)  # type: ignore[union-attr]
            return
        try:
            action = act(self.decode(payload))
            if action.__class__ is Act:
                action = self.annotate(action)
            data = self.encode(action)
        except BaseException as error:  # the policy's own, or an action that has no form
            self._policy_failed(error)
            return
        self.play(data)

    def let_think(self) -> None:
        """The policy takes its time: until it has decided, nothing is sent that would acknowledge the last outcome."""
        self.expected = NOTHING_EXPECTED
        payload, _, _, _, info = self.trajectory._rows[-1]
        self.acknowledge(self.index, payload, info)

    def play(self, data: bytes) -> None:
        """Send the next step. ``data`` is the action's serialized Value."""
        connection = self.connection
        if len(data) > connection.max_value_bytes:
            self._policy_failed(connection.oversize(len(data)))
            return
        self.acted(data)
        if self.log is not None:
            self.log.act(data)
        self.expected = index = self.index + 1
        if len(data) < 65536:
            connection.rows.add(self.handle, index, STEP, data)
            if not connection._reading:
                connection.wake()
        else:
            connection.send(self.handle, index, STEP, data)

    def annotate(self, act: Act) -> Any:
        """Keep an action's annotation; the action itself."""
        if self.trajectory.annotations is None:
            self.trajectory.annotations = {}
        self.trajectory.annotations[self.index + 1] = act.annotation
        if self.log is not None:
            self.log.annotate(self.index + 1, act.annotation)
        return act.action

    def _special(self, payload: bytes, flags: int) -> bool:
        """Ends and outcomes of several agents. Returns whether there is nothing more to do."""
        self.flags = flags
        if flags & 3:
            self._over(flags)
            return True
        if self.run.max_steps is not None and self.index >= self.run.max_steps:
            self._over(flags | TRUNCATED)
            return True
        if flags & AGENTS:
            outcome = make_outcome(self.index, payload, 0.0, flags, 0, b"", None)
            due = {agent: outcome.observation.get(agent) for agent in outcome.acting}  # type: ignore[attr-defined]
            try:
                self.play(self.encode(self.act(due)))
            except BaseException as error:
                self._policy_failed(error)
            return True
        return False

    def _begun(self) -> None:
        seconds = time.perf_counter() - self.started
        self.run.reset_seconds.append(seconds)
        if self.run.mesh.meters is not None:
            self.run.mesh.meters.reset(seconds)
        journal = self.run.mesh.journal
        if journal is not None:
            self.log = journal.begin(self.beginning.written(self.spec, self.episode_id))
            self.log.place(self.connection.address, self.connection.host_id, self.connection.metadata)

    # ---- ends

    def _over(self, flags: int) -> None:
        self.trajectory.flags = self.flags = flags
        self.expected = NOTHING_EXPECTED
        if self.run.grade and self.spec.grades:
            self.connection.send(self.handle, 0, REWARD, b"")
            return
        self._leave()

    def _leave(self, slot_good: bool = True) -> None:
        trajectory, slot = self.trajectory, self.slot if slot_good else None
        trajectory.seconds = time.perf_counter() - self.started
        self.abandon_rebuild()
        if slot is not None and self._ended_there():
            slot.over = self.handle
        else:
            self.connection.send(self.handle, 0, CLOSE, b"")
        self._unbind()
        self.run.finished(self, slot)

    def _ended_there(self) -> bool:
        """Whether the host knows that the episode is over, and has nothing more to say of it."""
        rows = self.trajectory._rows
        if self.trajectory.failure is not None or self.spec.checkpoints or not rows:
            return False
        return bool(rows[-1][2] & 3)

    def _unbind(self) -> None:
        self.connection.unbind(self.handle)
        if self.block is not None:
            self.block.players.pop(self.handle, None)

    def cancel(self) -> None:
        """The episode is not wanted any more."""
        self.expected = NOTHING_EXPECTED
        self.abandon_rebuild()
        if self.connection.lost is None:
            self.connection.send(self.handle, 0, CLOSE, b"")
        self._unbind()

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """A grade, or a failure."""
        if kind == pb.EVENT_KIND_REWARD:
            self.trajectory.grade = read_grade(payload)
            self._leave()
        elif kind == pb.EVENT_KIND_CHECKPOINT:
            self._adopt()
            self.candidate = pb.SealedCheckpoint.FromString(payload)
            if self.log is not None:
                self._adopt()
        elif kind == pb.EVENT_KIND_FAILURE:
            error = failure_of(payload)
            if not self.run.mesh.recovery.copy_lost(self, error):
                self._failed(error)

    def _failed(self, error: EnvmeshError) -> None:
        self.expected = NOTHING_EXPECTED
        if self.index < 0 and error.reason in ELSEWHERE:
            self.abandon_rebuild()  # it begins anew, and once
            self._unbind()
            self.run.elsewhere(self)
            return
        if self.index < 0 and isinstance(error, InvalidRequest):
            self.run.fail(error)
        mark_failed(self.trajectory, error)
        self._leave()

    def fell(self, error: EpisodeAborted) -> None:
        """The episode is over without an outcome."""
        self.expected = NOTHING_EXPECTED
        mark_failed(self.trajectory, error)
        self.trajectory.seconds = time.perf_counter() - self.started
        self._unbind()
        self.run.finished(self, self.slot if self.slot.usable else None)

    def _policy_failed(self, error: BaseException) -> None:
        self.run.fail(error)  # whose end closes this episode with all others, and gives its slot back

    # ---- its rebuilding

    @property
    def journaled(self) -> bool:
        """Whether a journal leads to where the episode is: the trajectory holds everything."""
        kept = self.index >= 0 and (self.keeps_journal or self._checkpoint is not None)
        return kept and not self.packed_journal().overflowed

    @property
    def place(self) -> tuple[Slot, int]:
        """Its slot, and its handle there."""
        return self.slot, self.handle

    @property
    def pool(self) -> LeasePool:
        """Where its slots go when it is over."""
        return self.run.mesh.pool(self.run.environment)

    @property
    def last_digest(self) -> int | None:
        """The digest of the last outcome."""
        rows = self.trajectory._rows
        return rows[-1][3] if rows else None

    def _adopt(self) -> None:
        """The candidate is the episode's checkpoint once every outcome up to it is held."""
        self.take_stock()
        if self.candidate is not None and self.candidate.index <= self.index:
            self.checkpoint, self.candidate = self.candidate, None
            if self.log is not None:
                self.log.checkpoint(self.checkpoint.SerializeToString())

    @property
    def _checkpoint(self) -> pb.SealedCheckpoint | None:
        """The last checkpoint of which every outcome up to it is held."""
        self._adopt()
        return self.checkpoint

    def take_stock(self) -> None:
        """A block notes only what it awaits."""
        if self.block is not None and self.expected > 0:
            self.index = self.expected - 1

    def out(self) -> tuple[int, int, bytes] | None:
        """The command that is out."""
        if self.expected > 0:
            return self.expected, STEP, self.trajectory._actions[-1]
        if self.expected == 0:
            return 0, RESET, self.pending
        if self.flags & 3 and self.run.grade and self.spec.grades:
            return 0, REWARD, b""
        return None

    def journal_bytes(self) -> bytes:
        """The serialized Journal."""
        return self.packed_journal().packed() if self.journaled else b""

    def packed_journal(self) -> Journal:
        """The journal that the trajectory's columns amount to."""
        reset, played = self.beginning.entry(self.spec), self.trajectory
        return Journal.of(reset, played.digests, played._actions, self._checkpoint)

    def stand_by(self, slot: Slot, handle: int) -> None:
        """There is no copy for now."""
        self._adopt()
        self.candidate = None  # what the lost copy had saved is of its own outcomes
        if self.block is not None:
            self.block.players.pop(self.handle, None)
            self.block = None
        self.slot, self.handle, self.connection = slot, handle, slot.connection

    def arrive(self, slot: Slot, handle: int, resume: Resume) -> None:
        """There is one again."""
        self.slot, self.handle, self.connection = slot, handle, slot.connection
        self.trajectory.host = slot.connection.address
        if self.log is not None:
            self.log.place(slot.connection.address, slot.connection.host_id, slot.connection.metadata)
        self.trajectory.resumes = (*self.trajectory.resumes, resume)

    def enlist(self) -> None:
        """Take the events of the handle."""
        self.connection.sessions[self.handle] = self
        self.block = self.run.block(self.slot, self.spec) if self.trace is None else None
        if self.block is not None:
            self.block.players[self.handle] = self


def mark_failed(trajectory: Trajectory, error: EnvmeshError) -> None:
    """Mark a trajectory as failed."""
    if isinstance(error, EpisodeAborted):
        trajectory.failure = error.failure
    else:
        trajectory.failure = Failure.of(error.reason, Exception.__str__(error))
