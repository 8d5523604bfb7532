"""An episode that is played by hand, as its connection and those who rebuild it see it: the slot that it has, the
command that is out there, and who waits for the answer."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

from envmesh.episode import NOTHING_EXPECTED, Beginning
from envmesh.episode_session import EpisodeSession, answers
from envmesh.episode_trace import command_name, end_trace, trace_command
from envmesh.errors import (
    DeadlineExceeded,
    EnvmeshError,
    EpisodeAborted,
    EpisodeEnded,
    InvalidRequest,
    MeshUnavailable,
)
from envmesh.last_outcome import LastOutcome
from envmesh.leases import LeasePool
from envmesh.outcome import EnvironmentSpec, Resume, make_outcome
from envmesh.rebuilding import Rebuild
from envmesh.slot import Slot
from envmesh.stream import HostConnection, failure_of
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.mesh import Mesh

__all__ = ["EpisodeInSlot"]


class EpisodeInSlot(LastOutcome, EpisodeSession):
    """An episode with one command out at a time, and at most one caller who waits for its answer until ``deadline``.
    ``away_since`` is when it lost its copy, 0.0 while it has one; ``failure`` is how it ended, where it failed."""

    __slots__ = ("_candidate", "_handle", "_mesh", "_out", "_pool", "_slot", "_waiter", "away_since", "deadline",
                 "failure", "rebuild", "resumes")  # fmt: skip

    def __init__(self, mesh: Mesh, pool: LeasePool, spec: EnvironmentSpec | None, beginning: Beginning):
        super().__init__(spec, secrets.token_bytes(16), beginning)  # type: ignore[arg-type]
        self._mesh = mesh
        self._pool = pool
        self._slot: Slot | None = None
        self._handle = 0
        self._last = self._unheard = None
        self._waiter: asyncio.Future[Any] | None = None
        self._out: tuple[int, int, bytes] | None = None
        self._candidate: pb.SealedCheckpoint | None = None
        self.rebuild: Rebuild | None = None
        self.resumes: tuple[Resume, ...] = ()
        self.away_since = 0.0
        self.deadline = 0.0
        self.failure: EnvmeshError | None = None

    # ---- its slot, and its end

    def _settle_in(self, slot: Slot) -> None:
        assert slot.binding.spec is not None
        self.spec = slot.binding.spec
        if self.beginning.seed is None and self.spec.seeded:
            self.beginning.seed = self._mesh.draw_seed()
        self._slot = slot
        self._handle = slot.connection.bind(self)
        self._mesh.episodes.add(self)

    def _leave(self, *, give_back: bool) -> None:
        self._mesh.episodes.discard(self)
        slot, handle = self._slot, self._handle
        self._slot, self._handle = None, 0
        self.expected = NOTHING_EXPECTED
        if slot is not None:
            slot.connection.unbind(handle)
            if give_back:
                self.pool.give(slot)
        self._resolve(None, MeshUnavailable("the episode was closed", reason="CANCELLED"))

    async def close(self) -> None:
        """End the episode and give its slot back. Never waits for the host, never raises."""
        self._end_log()
        self.abandon_rebuild()
        self._send_close()
        self._leave(give_back=True)
        end_trace(self)

    def _end_log(self) -> None:
        if self.log is not None:
            self.log.done()
            self.log = None

    def _send_close(self) -> None:
        if self._handle and self._slot is not None:
            self._slot.connection.send(self._handle, 0, pb.COMMAND_KIND_CLOSE, b"")

    # ---- the command that is out

    async def _command(self, index: int, kind: int, payload: bytes, timeout: float) -> Any:
        answer, writer = self._put(index, kind, payload, timeout)
        if writer is not None:
            writer.begin_writing()
        return await answer

    def _put(
        self, index: int, kind: int, payload: bytes, timeout: float
    ) -> tuple[asyncio.Future[Any], HostConnection | None]:
        """Queue a command. Returns its answer to come, and the connection if the caller is to write to it itself."""
        slot = self._slot
        if slot is None:
            raise self._not_open()
        connection = slot.connection
        answer = self._waiter = asyncio.get_running_loop().create_future()
        self._out = (index, kind, payload)
        self.deadline = (self.away_since or self._mesh.clock.now) + timeout
        if self.trace is not None:
            trace_command(self.trace, kind, index, answer)
        alone = connection.put(self._handle, index, kind, payload)
        return answer, connection if alone else None

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the answer to a command."""
        return self._waiter is not None and not self._waiter.done()

    async def _aside(self, kind: int, payload: bytes, timeout: float) -> bytes:
        if self.awaited:
            raise InvalidRequest("a command of this episode is being awaited already", reason="STEP_CONFLICT")
        if self.expected != NOTHING_EXPECTED:
            raise InvalidRequest(
                f"step {self.expected} of this episode goes on: await it again, or wait until its outcome is there",
                reason="STEP_CONFLICT",
            )
        return await self._command(0, kind, payload, timeout)  # type: ignore[no-any-return]

    def overdue(self) -> None:
        """The caller's patience is over (called by the mesh's clock)."""
        assert self._out is not None
        index, kind, _ = self._out
        what = command_name(kind, index)
        self._resolve(
            None,
            DeadlineExceeded(f"{what} of {self.spec.key} took longer than the caller would wait; it goes on"),
        )

    def _resolve(self, result: Any, error: EnvmeshError | None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(result)
        else:
            waiter.set_exception(error)

    def _not_open(self) -> EnvmeshError:
        if self.failure is not None:
            return self.failure
        return EpisodeEnded("the episode is closed or has not begun", reason="ARGUMENT_INVALID")

    # ---- what the connection tells

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """The awaited reset or step succeeded."""
        self._out, sent = None, self.pending
        self.settle(index, flags, digest)
        if self._mesh.journal is not None and (self.log is not None or not index):
            self._write((payload, reward, flags, digest, info))
        candidate = self._candidate
        if candidate is not None and candidate.index <= index:
            self._candidate = None
            self._adopt(candidate)
        decode = None if self.spec.agents else self.spec.observation_codec.decode
        self._last = make_outcome(index, payload, reward, flags, digest, info, decode)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self._waiter = self._unheard = None
            waiter.set_result(self._last)
        elif index:
            self._unheard = sent
        self.acknowledge(index, payload, info)

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """Anything else."""
        if kind == pb.EVENT_KIND_CHECKPOINT:
            self._adopt(pb.SealedCheckpoint.FromString(payload))
        answer = answers(kind, index, self._out)
        if kind == pb.EVENT_KIND_FAILURE:
            error = failure_of(payload)
            if self._mesh.recovery.copy_lost(self, error):
                return
            if isinstance(error, EpisodeAborted):
                self.failure = error
            elif not answer:
                return
            if not isinstance(error, DeadlineExceeded):
                self.expected = NOTHING_EXPECTED
                self._out = None
            self._resolve(None, error)
        elif answer:
            self._out = None
            self._resolve(payload, None)

    def _write(self, row: tuple[bytes, float, int, int, bytes]) -> None:
        """Put an outcome into the client's journal on disk. Branches, and episodes that were attached, are not there:
        their beginning is another's."""
        assert self._mesh.journal is not None
        if self.log is None:
            self.log = self._mesh.journal.begin(self.beginning.written(self.spec, self.episode_id))
            self._write_place()
        self.log.outcome(row)

    def _write_place(self) -> None:
        if self.log is not None and self._slot is not None:
            self.log.place(
                self._slot.connection.address, self._slot.connection.host_id, self._slot.connection.metadata
            )

    def _adopt(self, sealed: pb.SealedCheckpoint) -> None:
        """A checkpoint came: the journal restarts there once every outcome up to it is held."""
        if sealed.index > self.index:
            self._candidate = sealed
            return
        if self.journal is not None:
            self.journal.checkpoint(sealed)
        if self.log is not None:
            self.log.checkpoint(sealed.SerializeToString())

    # ---- its rebuilding

    @property
    def journaled(self) -> bool:
        """Whether a journal leads to where the episode is."""
        journal = self.journal
        return journal is not None and not journal.overflowed and journal.index == self.index

    @property
    def place(self) -> tuple[Slot, int]:
        """Its slot, and its handle there."""
        assert self._slot is not None
        return self._slot, self._handle

    @property
    def pool(self) -> LeasePool:
        """Where its slots go when it is over."""
        return self._pool

    def out(self) -> tuple[int, int, bytes] | None:
        """The command that is out."""
        return self._out

    def journal_bytes(self) -> bytes:
        """The serialized Journal."""
        return self.journal.packed() if self.journal is not None and self.journaled else b""

    def stand_by(self, slot: Slot, handle: int) -> None:
        """There is no copy for now."""
        self._slot, self._handle = slot, handle
        self._candidate = None  # what the lost copy had saved is of its own outcomes
        self.away_since = asyncio.get_running_loop().time()

    def arrive(self, slot: Slot, handle: int, resume: Resume) -> None:
        """There is one again; the caller's patience stood still."""
        self._slot, self._handle = slot, handle
        self.deadline += asyncio.get_running_loop().time() - self.away_since
        self.away_since = 0.0
        self._write_place()
        self.resumes = (*self.resumes, resume)
        if self.trace is not None:
            self.trace.resumed(resume)

    def enlist(self) -> None:
        """Take the events of the handle."""
        assert self._slot is not None
        self._slot.connection.sessions[self._handle] = self

    def fell(self, error: EpisodeAborted) -> None:
        """The episode is over without an outcome."""
        self.failure = error
        self._resolve(None, error)
        self._leave(give_back=True)
