"""Many episodes stepped with arrays: ``mesh.vector(environment, n)``.

Commands leave and outcomes arrive as whole columns of a frame; nothing is done for a single event that can be done for
all of a frame. ``recv`` gives whatever is ready first, so slow episodes hold nobody up.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy import count_nonzero  # a third of what `any` costs for a few dozen rows

from envmesh.batch_codec import BatchCodec
from envmesh.beginnings import make_beginning
from envmesh.env import Recovery
from envmesh.episode_origins import PATIENCE_BEYOND_LIMIT
from envmesh.errors import DeadlineExceeded, InvalidRequest, MeshUnavailable
from envmesh.journal import Journal
from envmesh.tensors import Array
from envmesh.v1 import environment_pb2 as pb
from envmesh.vector_batch import Batch
from envmesh.vector_episodes import NOTHING, VectorEpisodes, give_back
from envmesh.vector_seeds import Seeds, SeedSequence

if TYPE_CHECKING:
    from envmesh.mesh import Mesh

__all__ = ["Batch", "Vector"]

FEW_ROWS = 4
LOOK_SECONDS = 0.25
"""How exactly a patience ends that stood still."""


class Vector(VectorEpisodes):
    """``n`` episodes of one environment, numbered from 0, each in a slot of its own.

    After an episode has ended, its next action is ignored and begins a new one, whose first observation is the answer,
    with reward 0 (Gymnasium's next-step autoreset); ``autoreset=False`` leaves that to ``reset``. The first episodes
    have the seeds ``seed``, ``seed + 1``, …; the later ones get theirs from one sequence that ``seed`` begins, whatever
    the order in which they end.

    An episode that fails gives one row with ``valid`` False: reward NaN, neither terminated nor truncated, its
    ``Failure`` in ``batch.failures``. Its next action begins a new one.

    Use it in ``async with``. It is not for several tasks at once, but one may send while another receives.
    """

    def __init__(
        self,
        mesh: Mesh,
        environment: str,
        n: int,
        *,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        autoreset: bool = True,
        timeout: float | None = None,
        step_timeout: float | None = None,
    ):
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidRequest(f"n is a whole number of at least 1; got {n!r}")
        super().__init__(
            mesh, environment, n, SeedSequence(n, mesh.draw_seed() if seed is None else seed), options
        )
        self.autoreset = autoreset
        self._seed_given = seed is not None
        self._timeout = mesh.slot_patience(timeout)
        self._step_timeout = step_timeout
        self._marks = np.zeros(n, np.bool_)

    def __repr__(self) -> str:
        return f"<Vector of {self.n} {self.environment}, {self._outstanding} stepping, {self._arrivals.count} ready>"

    def __len__(self) -> int:
        return self.n

    async def __aenter__(self) -> Self:
        await self.prepare()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- what callers do

    async def prepare(self) -> None:
        """Find out what the environment is like; ``reset`` does it too.

        Raises:
            NotFound, MeshUnavailable: it is not served. InvalidRequest: it has several agents, or honours no seed.
        """
        self._check_usable()
        if self._spec is not None:
            return
        spec = await self.mesh.describe(self.environment)
        self._check_usable()  # it may have been closed meanwhile
        if spec.agents:
            raise InvalidRequest(
                f"{spec.key} has several agents; play it with rollouts", reason="UNSUPPORTED"
            )
        if self._seed_given and not spec.seeded:
            raise InvalidRequest(f"{spec.key} does not honour a seed", reason="SEED_UNSUPPORTED")
        self._observations = BatchCodec(_space(spec.message, "observation_space"))
        self._actions = BatchCodec(_space(spec.message, "action_space"), action=True)
        self._keeps_journal = spec.recovery is not Recovery.NONE
        self._spec = spec
        self.mesh.vectors.add(self)  # not before: one that could not begin has nothing to close

    async def reset(
        self,
        *,
        seed: Seeds | None = None,
        options: Mapping[str, Any] | None = None,
        ids: Iterable[int] | None = None,
        timeout: float | None = None,
    ) -> Batch:
        """Begin new episodes, everywhere or at ``ids``, and wait for all of them. The batch is in order of ids.

        ``seed`` as in Gymnasium: one for each, or one number that the ids are added to, which also begins the sequence
        anew. ``options`` hold until the next reset. ``timeout`` bounds the wait, slots included, in seconds.

        Raises:
            NotFound, InvalidRequest: no such environment, seed or option. DeadlineExceeded: not within ``timeout``.
        """
        await self.prepare()
        chosen = self._everybody if ids is None else self._checked(ids)
        beginning = self._beginning if options is None else make_beginning(None, options, "", "")
        if seed is not None:
            if not self.spec.seeded:
                raise InvalidRequest(f"{self.spec.key} does not honour a seed", reason="SEED_UNSUPPORTED")
            self._seeds.restart(seed, chosen.tolist())
        self._beginning = beginning
        self._arrivals.drop(chosen)
        self._begin(chosen)
        await self._until(lambda: not (self._awaited[chosen] != NOTHING).any(), timeout)
        arrivals = self._arrivals
        if errors := arrivals.take_errors(chosen):
            raise errors[0]  # a reset that is refused once is mostly refused everywhere
        ready = arrivals.take()
        mine = np.isin(ready.ids, chosen)
        arrivals.put_back(ready.chosen(np.flatnonzero(~mine)))
        return Batch(ready.chosen(np.flatnonzero(mine)), self._observations).ordered()

    async def send(self, actions: Any, ids: Any = None) -> None:
        """Step the episodes ``ids`` (all of them, by default), each with its action.

        Raises:
            InvalidRequest: a number of actions that is not that of the ids, an id that is not there, is being stepped
                already or (without autoreset) has ended, or an action without a form on the wire. Nothing was sent.
        """
        numbers = self._everybody if ids is None else self._checked(ids)
        if len(actions) != len(numbers):
            raise InvalidRequest(f"{len(actions)} actions for {len(numbers)} episodes")
        self._check_usable()
        if count_nonzero(awaited := self._awaited[numbers] != NOTHING):
            number = numbers[awaited][0]
            raise InvalidRequest(f"episode {number} is being stepped already", reason="STEP_CONFLICT")
        ended = None
        over = self._ended[numbers]
        if self._broken:
            over |= np.isin(numbers, list(self._broken))
        if count_nonzero(over):
            self._check_over(numbers, over)
            live = np.flatnonzero(~over)
            payloads = self._encoded(_picked(actions, live)) if len(live) else []
            ended, numbers = numbers[over], numbers[live]
        else:
            self._check_begun(numbers)
            payloads = self._encoded(actions)
        if payloads:
            self._step(numbers, payloads)
        if ended is not None:
            self._answer_or_reset(ended)
        if 0 < len(payloads) <= FEW_ROWS:
            self._write_alone()

    async def recv(self, min_ready: int = 1, *, timeout: float | None = None) -> Batch:
        """The outcomes that are there, as soon as there are ``min_ready`` (or all that were asked for, if fewer).

        Raises:
            InvalidRequest: an action was refused (its episode is unharmed and may be sent another), or nothing is
                being stepped. DeadlineExceeded: too few came within ``timeout`` seconds; receive again.
        """
        arrivals = self._arrivals
        if not arrivals.count and not self._outstanding and not arrivals.errors:
            raise InvalidRequest("nothing is being stepped: reset or send first", reason="STEP_INDEX")
        needed = max(1, min(min_ready, arrivals.count + self._outstanding))
        await self._until(lambda: arrivals.count >= needed or bool(arrivals.errors), timeout)
        if arrivals.errors:
            raise arrivals.errors.popleft()[1]
        return Batch(arrivals.take(), self._observations)

    async def step(self, actions: Any, *, timeout: float | None = None) -> Batch:
        """Step all episodes and wait for all of them. The batch is in order of ids.

        Raises:
            InvalidRequest: as ``send`` and ``recv``; or outcomes of earlier actions were not received yet (a step
                before was refused in part, or nobody waited for all of it), which must not pass for those of these.
            DeadlineExceeded: as ``recv``.
        """
        self._check_usable()
        arrivals = self._arrivals
        if self._outstanding or arrivals.count or arrivals.errors:
            raise InvalidRequest(
                "outcomes of earlier actions were not received yet: reset first, or receive them",
                reason="STEP_CONFLICT",
            )
        await self.send(actions)
        return (await self.recv(self.n, timeout=timeout)).ordered()

    async def close(self) -> None:
        """End every episode and give the slots back."""
        if self._closed:
            return
        self._closed = True
        self.mesh.vectors.discard(self)
        for number in range(self.n):
            slot = self._vacate(number)
            if slot is not None:
                give_back(slot)
        for block in self._blocks:
            block.end()
        for waiter in self._slot_waiters:
            waiter.cancel()
        self._arrivals.fail(MeshUnavailable("the vector was closed", reason="CANCELLED"))

    def journal(self, number: int) -> Journal:
        """How episode ``number`` came to be where it is. Raises: KeyError where there is none, or none is kept."""
        if not 0 <= number < self.n:
            raise KeyError(number)
        return copy.deepcopy(self.journals.journal(number)[0])

    # ---- waiting

    async def _until(self, enough: Callable[[], bool], timeout: float | None) -> None:
        """Wait until there is enough; it is asked whenever something came. Where no ``timeout`` was given, the patience
        stands still while an episode is being rebuilt."""
        if not enough():
            self._check_usable()
        clock, away = self.mesh.loop_time, self._away
        patience = self._patience() if timeout is None else timeout
        begun, away_before = clock(), away.seconds(clock())

        def late() -> DeadlineExceeded | float:
            stood_still = away.seconds(clock()) - away_before if timeout is None else 0.0
            left = begun + patience + stood_still - clock()
            return max(left, LOOK_SECONDS) if stood_still and left > 0 else self._late(patience)

        await self._arrivals.wait(enough, patience, late)

    def _patience(self) -> float:
        """For how long to wait where nobody says, in seconds."""
        most = self._step_timeout
        if most is None:
            limits = self.spec.limits
            most = max(limits.step_seconds, limits.reset_seconds) + PATIENCE_BEYOND_LIMIT
        return max(most, self._timeout) if self._wanting else most

    def _late(self, timeout: float) -> DeadlineExceeded:
        slots = (
            f"; {len(self._wanting)} wait for a slot: {self.pool.queued or 'asking'}" if self._wanting else ""
        )
        return DeadlineExceeded(
            f"{self._outstanding} episodes of {self.environment} had no outcome within {timeout:g} s{slots}"
        )

    # ---- checks

    def _check_usable(self) -> None:
        self.mesh.check_usable()
        if self._closed:
            raise MeshUnavailable("the vector is closed", reason="CANCELLED")

    def _checked(self, ids: Any) -> Array:
        numbers = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
            raise InvalidRequest(
                f"ids are whole numbers in one dimension; got {numbers.dtype}{numbers.shape}"
            )
        numbers = numbers.astype(np.int64, copy=numbers.flags.writeable)  # the journal keeps it
        marks = self._marks
        try:
            marks[numbers] = True
        except IndexError:
            beyond = numbers[(numbers < 0) | (numbers >= self.n)][0]
            raise InvalidRequest(f"ids are from 0 to {self.n - 1}; got {beyond}") from None
        different = np.count_nonzero(marks)
        marks[:] = False
        if different != len(numbers):
            raise InvalidRequest("an id is there twice")
        if len(numbers) and numbers.min() < 0:
            raise InvalidRequest(f"ids are from 0 to {self.n - 1}; got {numbers.min()}")
        return numbers

    def _check_over(self, numbers: Array, over: Array) -> None:
        if not self.autoreset and (ended := numbers[over & self._ended[numbers]]).size:
            raise InvalidRequest(
                f"episode {ended[0]} has ended: reset(ids=[{ended[0]}])", reason="EPISODE_ENDED"
            )
        self._check_begun(numbers[~over])

    def _check_begun(self, numbers: Array) -> None:
        fresh = self._index[numbers] == NOTHING
        if count_nonzero(fresh):
            number = numbers[fresh][0]
            raise InvalidRequest(f"episode {number} has not begun: reset first", reason="STEP_INDEX")


def _space(message: pb.EnvironmentInfo, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None  # type: ignore[arg-type]


def _picked(actions: Any, rows: Array) -> Any:
    return actions[rows] if isinstance(actions, np.ndarray) else [actions[row] for row in rows.tolist()]
