"""One episode played by hand: ``async with mesh.episode(...) as episode``."""

from __future__ import annotations

import asyncio
import secrets
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from envmesh import episode_origins
from envmesh.env import RewardResult
from envmesh.episode import NOTHING_EXPECTED, Beginning
from envmesh.episode_origins import PATIENCE_BEYOND_LIMIT
from envmesh.episode_session import ELSEWHERE, EpisodeSession
from envmesh.episode_trace import begin_trace, end_trace, take_slot, trace_command
from envmesh.errors import (
    DeadlineExceeded,
    EnvmeshError,
    EpisodeAborted,
    EpisodeEnded,
    InvalidRequest,
    MeshUnavailable,
)
from envmesh.grades import read_grade
from envmesh.last_outcome import LastOutcome, another_action
from envmesh.leases import LeasePool
from envmesh.outcome import EnvironmentSpec, Outcome, Resume, make_outcome
from envmesh.rebuilding import Rebuild
from envmesh.slot import Slot
from envmesh.stream import HostConnection, failure_of
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.journal_records import Unfinished
    from envmesh.mesh import Mesh

__all__ = ["Episode"]

ANSWERS_ASIDE = frozenset(
    {pb.EVENT_KIND_RESUMED, pb.EVENT_KIND_REWARD, pb.EVENT_KIND_CHECKPOINT, pb.EVENT_KIND_DETACHED}
)


class Episode(LastOutcome, EpisodeSession):
    """A live episode. ``observation``, ``info`` and ``outcome`` are those of the last step (or the reset);
    ``annotations`` maps a step's index to what was attached to it.

    Steps of one episode follow one another: awaiting a step while another runs is an error.
    """

    __slots__ = ("_annotations", "_candidate", "_handle", "_mesh", "_out", "_slot", "_timeout", "_waiter",
                 "away_since", "deadline", "failure", "_pool", "rebuild", "resumes", "step_timeout")  # fmt: skip

    def __init__(self, mesh: Mesh, pool: LeasePool, spec: EnvironmentSpec | None, beginning: Beginning, timeout: float,
                 step_timeout: float | None):  # fmt: skip
        super().__init__(spec, secrets.token_bytes(16), beginning)  # type: ignore[arg-type]
        self._mesh = mesh
        self._pool = pool
        self._timeout = timeout
        self.step_timeout = step_timeout
        self._slot: Slot | None = None
        self._handle = 0
        self._last = self._unheard = None
        self._waiter: asyncio.Future[Any] | None = None
        self._out: tuple[int, int, bytes] | None = None
        self._annotations: dict[int, Any] | None = None
        self._candidate: pb.SealedCheckpoint | None = None
        self.rebuild: Rebuild | None = None
        self.resumes: tuple[Resume, ...] = ()
        self.away_since = 0.0
        self.deadline = 0.0
        self.failure: EnvmeshError | None = None

    def __repr__(self) -> str:
        where = self.spec.key if self.index >= 0 else "not begun"
        return f"<Episode {self.episode_id.hex()[:8]} {where} step {self.index}{' done' * self.done}>"

    async def __aenter__(self) -> Self:
        if self._slot is None:  # an attached episode has begun already
            await self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- commands

    async def begin(self) -> Outcome:
        """Take a slot and reset. Raises: as ``LeasePool.take``, and InvalidRequest or EpisodeAborted of the reset."""
        self._mesh.check_usable()
        try:
            return await self._begin()
        except BaseException as error:
            if not isinstance(error, EnvmeshError):  # a cancellation: nobody will close what has begun
                await self.close()
            end_trace(self, str(error))
            raise

    async def _begin(self) -> Outcome:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        begin_trace(self)
        while True:
            slot = await take_slot(self, max(0.0, until - loop.time()))
            self._settle_in(slot)
            payload = self.reset_payload(slot.binding.number)
            if len(payload) > slot.connection.max_value_bytes:
                self._leave(give_back=True)
                raise slot.connection.oversize(len(payload), "the reset with its options")
            self.expect(0, payload)
            limit = self.spec.limits.reset_seconds + PATIENCE_BEYOND_LIMIT
            try:
                return await self._command(0, pb.COMMAND_KIND_RESET, payload, limit)  # type: ignore[no-any-return]
            except EnvmeshError as error:
                self.abandon_rebuild()  # it begins anew, and once
                self.not_begun(error)
                if error.reason not in ELSEWHERE or loop.time() >= until:
                    raise

    def not_begun(self, error: EnvmeshError) -> None:
        """A Reset or Resume has failed: leave no copy in the slot, and the slot to the next, where it is there at all.
        A copy that failed stays until it is closed; one that was too slow may yet come to life."""
        if not (elsewhere := error.reason in ELSEWHERE):
            self._send_close()
        self._leave(give_back=not elsewhere)

    async def step(self, action: Any, *, annotation: Any = None, timeout: float | None = None) -> Outcome:
        """Act once. ``timeout`` is this caller's patience in seconds; after it the step may be awaited again with the
        same action. The environment never sees ``annotation``: it is kept in ``annotations``, and in the client's
        journal file where there is one.

        Raises:
            InvalidRequest: the action is refused; the episode is unharmed. EpisodeEnded: it is over.
            EpisodeAborted: it failed. DeadlineExceeded: not within ``timeout``.
        """
        if self._handle == 0 or self.failure is not None:
            raise self._not_open()
        if self.awaited:
            raise InvalidRequest("a step of this episode is being awaited already", reason="STEP_CONFLICT")
        try:
            payload = self.spec.action_codec.encode(action)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                f"the action has no form on the wire: {error}", reason="ACTION_INVALID"
            ) from None
        connection = self._slot.connection  # type: ignore[union-attr]
        if len(payload) > connection.max_value_bytes:
            raise connection.oversize(len(payload))
        if self._unheard is not None:
            return self._heard_now(payload)
        index = self.index + 1
        if self.expected == index and payload != self.pending:
            raise another_action(index)
        self.expect(index, payload)
        if self.log is not None:
            self.log.act(payload)
        if annotation is not None:
            self._annotate(index, annotation)
        if timeout is None and (timeout := self.step_timeout) is None:
            timeout = self.spec.limits.step_seconds + PATIENCE_BEYOND_LIMIT
        answer, writer = self._put(index, pb.COMMAND_KIND_STEP, payload, timeout)
        if writer is not None:
            writer.begin_writing()
        return await answer  # type: ignore[no-any-return] # no coroutine between: thousands wait here

    async def reward(self, *, again: bool = False, timeout: float | None = None) -> RewardResult:
        """Grade the episode as it stands, without acting. Raises: Unsupported, EpisodeAborted."""
        payload = pb.RewardRequest(again=True).SerializeToString() if again else b""
        if timeout is None:
            timeout = self.spec.limits.reward_seconds + PATIENCE_BEYOND_LIMIT
        return read_grade(await self._aside(pb.COMMAND_KIND_REWARD, payload, timeout))

    async def checkpoint(self, *, timeout: float | None = None) -> pb.SealedCheckpoint:
        """Save the episode; its journal restarts there. Raises: Unsupported, EpisodeAborted."""
        if timeout is None:
            timeout = self.spec.limits.step_seconds + PATIENCE_BEYOND_LIMIT
        return pb.SealedCheckpoint.FromString(await self._aside(pb.COMMAND_KIND_CHECKPOINT, b"", timeout))

    async def detach(self) -> bytes:
        """Let go of the episode without closing it: the bytes let ``mesh.attach`` take it over, in any process."""
        token = await self._aside(pb.COMMAND_KIND_DETACH, b"", PATIENCE_BEYOND_LIMIT)
        slot = self._slot
        assert slot is not None
        data = self._mesh.detached(self, slot, token)
        if self.rebuild is not None:
            self.rebuild.drop()
        self._end_log()
        self._leave(give_back=False)
        end_trace(self)
        return data

    async def take_over(self, state: dict[str, Any]) -> None:
        """Become the owner of a detached episode (``mesh.attach``): of its copy if that lives, else of a new one."""
        await episode_origins.take_over(self, state)

    def take_up(self, unfinished: Unfinished) -> None:
        """Go on with an episode that another process began (``mesh.resume``)."""
        episode_origins.take_up(self, unfinished)

    async def fork(self, n: int = 1, *, reseed: bool = False, timeout: float | None = None) -> list[Episode]:
        """``n`` independent branches from the present step, each in a slot of its own, on any hosts.

        Branches share the randomness to come; with ``reseed`` each gets its own, where the environment offers that.
        ``timeout`` bounds the wait for their slots, in seconds. Close each of them.

        Raises:
            InvalidRequest: ``n`` is no whole number of at least 1, or a step is being awaited.
            Unsupported (FAILED_PRECONDITION): an episode of class NONE, or without a journal, has no
                branches; or the environment cannot be reseeded.
            Backpressure, MeshUnavailable, DeadlineExceeded: as for a slot; no branch is left then.
        """
        return await episode_origins.fork(self, n, reseed, timeout)

    async def close(self) -> None:
        """End the episode and give its slot back. Never waits for the host, never raises."""
        self._end_log()
        self.abandon_rebuild()
        self._send_close()
        self._leave(give_back=True)
        end_trace(self)

    @property
    def annotations(self) -> dict[int, Any]:
        """What was attached to steps, by their index."""
        return self._annotations or {}

    # ---- plumbing

    def _annotate(self, index: int, annotation: Any) -> None:
        if self._annotations is None:
            self._annotations = {}
        self._annotations[index] = annotation
        if self.log is not None:
            self.log.annotate(index, annotation)

    def _end_log(self) -> None:
        if self.log is not None:
            self.log.done()
            self.log = None

    def _send_close(self) -> None:
        if self._handle and self._slot is not None:
            self._slot.connection.send(self._handle, 0, pb.COMMAND_KIND_CLOSE, b"")

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
        return await self._command(0, kind, payload, timeout)  # type: ignore[no-any-return]

    def overdue(self) -> None:
        """The caller's patience is over (called by the mesh's clock)."""
        why = f"step {self.expected} of {self.spec.key} took longer than the caller would wait; it goes on"
        self._resolve(None, DeadlineExceeded(why))

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
        if len(payload) > 65536 and self._slot is not None:
            self._slot.connection.send(self._handle, index, pb.COMMAND_KIND_ACKNOWLEDGE, b"")

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """Anything else."""
        if kind == pb.EVENT_KIND_CHECKPOINT:
            self._adopt(pb.SealedCheckpoint.FromString(payload))
            if self._out is None or self._out[1] != pb.COMMAND_KIND_CHECKPOINT:
                return
        if kind == pb.EVENT_KIND_FAILURE:
            error = failure_of(payload)
            if self._mesh.recovery.copy_lost(self, error):
                return
            if isinstance(error, EpisodeAborted):
                self.failure = error
            if not isinstance(error, DeadlineExceeded):
                self.expected = NOTHING_EXPECTED
                self._out = None
            self._resolve(None, error)
        elif kind in ANSWERS_ASIDE:
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
