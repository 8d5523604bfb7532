"""One episode played by hand: ``async with mesh.episode(...) as episode``."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from envmesh import episode_origins
from envmesh.env import RewardResult
from envmesh.episode import Beginning
from envmesh.episode_in_slot import EpisodeInSlot
from envmesh.episode_origins import PATIENCE_BEYOND_LIMIT
from envmesh.episode_session import ELSEWHERE
from envmesh.episode_trace import begin_trace, end_trace, take_slot
from envmesh.errors import EnvmeshError, InvalidRequest
from envmesh.grades import read_grade
from envmesh.last_outcome import another_action
from envmesh.leases import LeasePool
from envmesh.outcome import EnvironmentSpec, Outcome
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.journal_records import Unfinished
    from envmesh.mesh import Mesh

__all__ = ["Episode"]


class Episode(EpisodeInSlot):
    """A live episode. ``observation``, ``info`` and ``outcome`` are those of the last step (or the reset);
    ``annotations`` maps a step's index to what was attached to it.

    Steps of one episode follow one another: awaiting a step while another runs is an error.
    """

    __slots__ = ("_annotations", "_timeout", "step_timeout")

    def __init__(self, mesh: Mesh, pool: LeasePool, spec: EnvironmentSpec | None, beginning: Beginning, timeout: float,
                 step_timeout: float | None):  # fmt: skip
        super().__init__(mesh, pool, spec, beginning)
        self._timeout = timeout
        self.step_timeout = step_timeout
        self._annotations: dict[int, Any] | None = None

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
        self._check_free_to_act()
        try:
            payload = self.spec.action_codec.encode(action)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                f"the action has no form on the wire: {error}", reason="ACTION_INVALID"
            ) from None
        return await self._act(payload, annotation, timeout)

    async def step_packed(self, action: bytes, *, timeout: float | None = None) -> Outcome:
        """Act once with an action's serialized Value, as ``Trajectory.packed_actions`` has it: it is sent as it is.
        Raises: as ``step``."""
        self._check_free_to_act()
        return await self._act(action, None, timeout)

    async def reward(self, *, again: bool = False, timeout: float | None = None) -> RewardResult:
        """Grade the episode as it stands, without acting. Raises: Unsupported, EpisodeAborted, and InvalidRequest
        (STEP_CONFLICT) while a step goes on, be it that nobody awaits it any more."""
        payload = pb.RewardRequest(again=True).SerializeToString() if again else b""
        if timeout is None:
            timeout = self.spec.limits.reward_seconds + PATIENCE_BEYOND_LIMIT
        return read_grade(await self._aside(pb.COMMAND_KIND_REWARD, payload, timeout))

    async def checkpoint(self, *, timeout: float | None = None) -> pb.SealedCheckpoint:
        """Save the episode; its journal restarts there. Raises: as ``reward``."""
        if timeout is None:
            timeout = self.spec.limits.step_seconds + PATIENCE_BEYOND_LIMIT
        return pb.SealedCheckpoint.FromString(await self._aside(pb.COMMAND_KIND_CHECKPOINT, b"", timeout))

    async def detach(self) -> bytes:
        """Let go of the episode without closing it: the bytes let ``mesh.attach`` take it over, in any process.
        Raises: as ``reward``."""
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

    @property
    def annotations(self) -> dict[int, Any]:
        """What was attached to steps, by their index."""
        return self._annotations or {}

    def _annotate(self, index: int, annotation: Any) -> None:
        if self._annotations is None:
            self._annotations = {}
        self._annotations[index] = annotation
        if self.log is not None:
            self.log.annotate(index, annotation)

    def _check_free_to_act(self) -> None:
        if self._handle == 0 or self.failure is not None:
            raise self._not_open()
        if self.awaited:
            raise InvalidRequest("a step of this episode is being awaited already", reason="STEP_CONFLICT")

    def _act(self, payload: bytes, annotation: Any, timeout: float | None) -> asyncio.Future[Outcome]:
        """Send an action. Returns its outcome to come, with no coroutine between: thousands wait for theirs."""
        connection = self._slot.connection  # type: ignore[union-attr]
        if len(payload) > connection.max_value_bytes:
            raise connection.oversize(len(payload))
        if self._unheard is not None:
            heard: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            heard.set_result(self._heard_now(payload))
            return heard
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
        return answer
