"""The episodes of a vector: where each stands, and how commands and outcomes reach it, whole columns at a time."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Mapping
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import count_nonzero

from envmesh.batch_codec import BatchCodec, integers, reals
from envmesh.beginnings import make_beginning
from envmesh.episode import FIRST_EPOCH, Beginning
from envmesh.episode_session import ELSEWHERE
from envmesh.errors import EnvmeshError, EpisodeAborted, Failure, InvalidRequest, MeshUnavailable
from envmesh.frame_bounds import LARGE_REPLY_BYTES, LARGE_VALUE_BYTES
from envmesh.outcome import EnvironmentSpec
from envmesh.slot import LeaseBinding, Slot
from envmesh.stream import failure_of
from envmesh.tensors import Array
from envmesh.v1 import environment_pb2 as pb
from envmesh.vector_arrivals import Arrivals
from envmesh.vector_away import Away
from envmesh.vector_batch import Rows
from envmesh.vector_block import Block
from envmesh.vector_journal import VectorJournal
from envmesh.vector_member import Member
from envmesh.vector_seeds import SeedSequence

if TYPE_CHECKING:
    from envmesh.mesh import Mesh

__all__ = ["NOTHING", "VectorEpisodes", "give_back"]

NOTHING = -1
ENDED = 3


class VectorEpisodes:
    """``n`` episodes of one environment, by number. Their state is kept in arrays.

    ``_index`` is the last step whose outcome is held (-1 before the reset's), ``_awaited`` the one that is awaited
    (-1: none), ``_ended`` whether an episode is over, ``_open`` whether a host has a copy under its handle that
    must be closed before another episode begins there (one whose end we have seen need not be).
    """

    def __init__(
        self, mesh: Mesh, environment: str, n: int, seeds: SeedSequence, options: Mapping[str, Any] | None
    ):
        self.mesh = mesh
        self.environment = environment
        self.n = n
        self.journals = VectorJournal(n, lambda number: self.beginnings[number].entry(self.spec))
        self.pool = mesh.pool(environment)
        self._seeds = seeds
        self._spec: EnvironmentSpec | None = None
        self._observations = BatchCodec(None)
        self._actions = BatchCodec(None)
        self._beginning = make_beginning(None, options, "", "")
        """How episodes begin from now on, but for the seed."""
        self.beginnings = [self._beginning] * n
        self._keeps_journal = False
        self.members = [Member(self, number) for number in range(n)]
        self.identities = [b""] * n
        self.epochs = np.full(n, FIRST_EPOCH, np.int64)
        self._everybody = np.arange(n, dtype=np.int64)
        self._index = np.full(n, NOTHING, np.int64)
        self._awaited = np.full(n, NOTHING, np.int64)
        self._ended = np.zeros(n, np.bool_)
        self._open = np.zeros(n, np.bool_)
        self._handles = np.zeros(n, np.int64)
        self._places = np.full(n, NOTHING, np.int64)
        self._slots: list[Slot | None] = [None] * n
        self._lease_numbers = [0] * n
        self._blocks: list[Block] = []
        self._wanting: deque[int] = deque()
        self._away = Away()
        self._broken: dict[int, Failure] = {}
        self._outstanding = 0
        self._arrivals = Arrivals()
        self._slot_waiters: list[asyncio.Future[Slot]] = []
        self._closed = False

    @property
    def spec(self) -> EnvironmentSpec:
        """The environment; known once the vector is in use. Raises: MeshUnavailable."""
        if self._spec is None:
            raise MeshUnavailable("the vector is not in use yet: use it in `async with`, or reset it")
        return self._spec

    # ---- commands

    def _encoded(self, actions: Any) -> list[bytes]:
        try:
            return self._actions.encode(actions)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                f"an action has no form on the wire: {error}", reason="ACTION_INVALID"
            ) from None

    def _step(self, numbers: Array, payloads: list[bytes]) -> None:
        """Raises: InvalidRequest where an action is too large; nothing was sent then."""
        most = self._actions.packed or max(map(len, payloads))
        large = most >= LARGE_VALUE_BYTES
        if large:
            for block in self._blocks:
                if most > block.connection.max_value_bytes:
                    raise block.connection.oversize(most)
        indices = self._index[numbers] + 1
        self._awaited[numbers] = indices
        self._outstanding += len(payloads)
        if self._keeps_journal:
            self.journals.sent(numbers, payloads)
        handles = self._handles[numbers]
        if len(self._blocks) == 1 and not self._away:
            self._blocks[0].step(handles.tolist(), indices.tolist(), payloads, large)
            return
        places = self._places[numbers]
        for place in np.unique(places).tolist():
            if place == NOTHING:
                self._hold(numbers, indices, payloads, places)
                continue
            rows = np.flatnonzero(places == place)
            chosen = [payloads[row] for row in rows.tolist()]
            self._blocks[place].step(handles[rows].tolist(), indices[rows].tolist(), chosen, large)

    def _hold(self, numbers: Array, indices: Array, payloads: list[bytes], places: Array) -> None:
        """Steps of episodes that have no copy for now: they are kept until they have one."""
        for row in np.flatnonzero(places == NOTHING).tolist():
            slot = self._away.slot_of(int(numbers[row]))
            assert slot is not None
            slot.connection.send(0, int(indices[row]), pb.COMMAND_KIND_STEP, payloads[row])

    def _write_alone(self) -> None:
        """A few steps are written by their caller, without a switch of tasks."""
        for block in self._blocks:
            connection = block.connection
            if connection.rows and not connection._writing and connection.lost is None:
                connection.begin_writing()

    def _begin(self, numbers: Array) -> None:
        """Begin new episodes."""
        awaited = self._awaited[numbers] != NOTHING
        replaced = count_nonzero(awaited)
        for number in numbers[awaited].tolist() if replaced else ():
            self._rebind(number)
        self._outstanding += len(numbers) - int(replaced)
        for number in numbers.tolist() if self.mesh.recovery.rebuilds else ():
            self._end_rebuild(number)
        self._awaited[numbers] = 0
        self._index[numbers] = NOTHING
        self._ended[numbers] = False
        begun = self._beginning
        for number in numbers.tolist():
            self.beginnings[number] = Beginning(None, begun.options, begun.options_value)
        if self._keeps_journal:
            self.journals.begin(numbers)
        for number in self._broken.keys() & set(numbers.tolist()) if self._broken else ():
            del self._broken[number]
        homeless = self._places[numbers] == NOTHING
        if any(block.connection.lost is not None or block.connection.draining for block in self._blocks):
            homeless = np.array([self._find_homeless(number) for number in numbers.tolist()])
        if count_nonzero(homeless):
            wanting = [number for number in numbers[homeless].tolist() if number not in self._wanting]
            self._wanting.extend(wanting)
            self._want(len(wanting))
            numbers = numbers[~homeless]
        if len(numbers):
            self._reset(numbers)

    def _find_homeless(self, number: int) -> bool:
        """Whether an episode needs another slot. One on a host that is lost or drains is left."""
        slot = self._slots[number]
        if slot is not None and slot.connection.lost is None and not slot.connection.draining:
            return False
        self._vacate(number)
        return True

    def _reset(self, numbers: Array) -> None:
        """Send resets of episodes that have a slot. Their seeds are drawn when that is done first: who is refused and
        begins elsewhere does so with the same one, and who waits for a slot in vain uses up none."""
        members = numbers.tolist()
        if self.spec.seeded:
            seedless = [number for number in members if self.beginnings[number].seed is None]
            for number, seed in zip(seedless, self._seeds.following(seedless), strict=True):
                self.beginnings[number].seed = seed
        if self.spec.checkpoints:  # a large one of the episode before may come after this reset's outcome
            for number in members:
                self._rebind(number)
        identities = os.urandom(16 * len(numbers))
        self.epochs[numbers] = FIRST_EPOCH
        requests = []
        for at, number in enumerate(members):
            identity = self.identities[number] = identities[16 * at : 16 * at + 16]
            begun = self.beginnings[number]
            requests.append(begun.request(identity, FIRST_EPOCH, self._lease_numbers[number]))
        handles, opens = self._handles[numbers].tolist(), self._open[numbers].tolist()
        self._open[numbers] = True
        if len(self._blocks) == 1:
            self._blocks[0].begin(handles, requests, opens)
            return
        places = self._places[numbers]
        for place in {*places.tolist()}:
            mine = (places == place).tolist()
            self._blocks[place].begin(
                *(list(compress(column, mine)) for column in (handles, requests, opens))
            )

    def _answer_or_reset(self, numbers: Array) -> None:
        """Episodes that are over: those that fell while nobody waited say so, the others begin anew."""
        anew = []
        for number in numbers.tolist():
            failure = self._broken.pop(number, None)
            if failure is None:
                anew.append(number)
            else:
                self._ended[number] = True
                self._arrivals.add(Rows.failed(number, failure))
        if anew:
            self._begin(integers(anew))

    # ---- slots

    def _want(self, count: int) -> None:
        self._slot_waiters = [waiter for waiter in self._slot_waiters if not waiter.done()]
        self._slot_waiters += self.pool.want(count, self._slot_came, self._no_slot)

    def _slot_came(self, slot: Slot) -> None:
        if self._closed or not self._wanting:
            give_back(slot)
            return
        if slot.binding.spec is None or slot.binding.spec.key != self.spec.key:
            self._ask_for_version()
            give_back(slot)
            return
        if not slot.usable:  # its host was lost, or began to drain, in this very turn of the loop
            self._want(1)
            return
        number = self._wanting.popleft()
        place = self._settle(number, slot)
        self._handles[number] = self._blocks[place].place(number)
        self._open[number] = False
        self._reset(integers([number]))

    def _ask_for_version(self) -> None:
        """By the bare name another version comes now; by the full one this one, or a clear refusal."""
        if self.pool.environment != self.spec.key:
            self.pool = self.mesh.pool(self.spec.key)
            for waiter in self._slot_waiters:
                waiter.cancel()
            self._want(len(self._wanting))

    def _settle(self, number: int, slot: Slot) -> int:
        """The episode's slot is this one from now on. Returns the number of its block."""
        place = next((at for at, block in enumerate(self._blocks) if block.takes(slot)), None)
        if place is None:
            place = next(filter(self._is_deserted, range(len(self._blocks))), len(self._blocks))
            self._blocks[place : place + 1] = [Block(self, slot.connection)]
        self._slots[number] = slot
        self._lease_numbers[number] = slot.binding.number
        self._places[number] = place
        return place

    def _is_deserted(self, place: int) -> bool:
        """Whether a block is of a connection that is lost, with no episode on it any more."""
        return self._blocks[place].connection.lost is not None and place not in self._places

    def _no_slot(self, error: EnvmeshError) -> None:
        if self._wanting:
            number = self._wanting.popleft()
            self._awaited[number] = NOTHING
            self._ended[number] = True
            self._outstanding -= 1
            self._arrivals.refuse(number, error)

    def _rebind(self, number: int) -> None:
        """Another handle, so that what is still on its way for the old episode cannot be taken for the new one's."""
        place = int(self._places[number])
        if place != NOTHING:
            self._blocks[place].leave(int(self._handles[number]))
            self._handles[number] = self._blocks[place].place(number)
            self._open[number] = False

    def _vacate(self, number: int) -> Slot | None:
        """Leave the slot; it is returned."""
        self._end_rebuild(number)
        place, slot = int(self._places[number]), self._slots[number]
        if place != NOTHING:
            self._blocks[place].leave(int(self._handles[number]))
        self._slots[number], self._places[number], self._handles[number] = None, NOTHING, 0
        self._open[number] = False
        return slot

    # ---- what the connections tell

    def awaited(self, number: int) -> int:
        """The index that episode ``number`` awaits, -1 where it awaits none."""
        return int(self._awaited[number])

    def on_outcomes(self, numbers: Array, indices: list[int], payloads: list[bytes], rewards: list[float],
                    flags: list[int], digests: list[int], infos: list[bytes]) -> None:  # fmt: skip
        """Outcomes came: take those that are awaited."""
        came = integers(indices)
        wanted = self._awaited[numbers] == came
        if count_nonzero(wanted) != len(payloads):
            keep = np.flatnonzero(wanted).tolist()
            if keep:
                every: tuple[list[Any], ...] = (indices, payloads, rewards, flags, digests, infos)
                self.on_outcomes(numbers[keep], *([column[row] for row in keep] for column in every))
            return
        self._awaited[numbers] = NOTHING
        self._index[numbers] = came
        self._outstanding -= len(payloads)
        endings = None
        if any(flags):
            endings = integers(flags) & ENDED
            over = numbers[endings != 0]
            self._ended[over] = True
            self._open[over] = False
        if self._keeps_journal:
            self.journals.received(numbers, digests)
        informed = any(infos)
        if max(map(len, payloads)) + (max(map(len, infos)) if informed else 0) > LARGE_REPLY_BYTES:
            for number, *outcome in zip(numbers.tolist(), indices, payloads, infos, strict=True):
                self.members[number].acknowledge(*outcome)
        self._arrivals.add(Rows(numbers, payloads, reals(rewards), endings, infos if informed else None))

    def on_failure(self, number: int, index: int, payload: bytes) -> None:
        """A command failed."""
        if self._awaited[number] != index:
            return
        error = failure_of(payload)
        if self.mesh.recovery.copy_lost(self.members[number], error):
            return
        aborted = isinstance(error, EpisodeAborted)
        if index == 0 and error.reason in ELSEWHERE:
            self._vacate(number)
            self._wanting.append(number)
            self._want(1)
        elif not aborted and (index == 0 or isinstance(error, InvalidRequest)):
            self.refused(number, index, error)
        else:
            self._fell(number, Failure.of(error.reason, Exception.__str__(error)))

    def refused(self, number: int, index: int, error: EnvmeshError) -> None:
        """A reset or step was refused, which harms nothing."""
        if self._awaited[number] != index:
            return
        self._awaited[number] = NOTHING
        self._ended[number] = index == 0
        self._outstanding -= 1
        told = type(error)(f"episode {number}: {Exception.__str__(error)}", reason=error.reason)
        self._arrivals.refuse(number, told)

    def on_checkpoint(self, number: int, payload: bytes) -> None:
        """A checkpoint of an episode came: its journal restarts there."""
        if self._keeps_journal:
            self.journals.checkpoint(number, pb.SealedCheckpoint.FromString(payload))

    def fell(self, number: int, error: EpisodeAborted) -> None:
        """An episode is over without an outcome."""
        slot = self._slots[number]
        if slot is None or not slot.usable:
            self._vacate(number)
        if not self._closed:
            self._fell(number, error.failure)

    def _fell(self, number: int, failure: Failure) -> None:
        self.journals.forget(number)
        if self._awaited[number] == NOTHING:
            if not self._ended[number]:
                self._broken[number] = failure
            return
        self._awaited[number] = NOTHING
        self._outstanding -= 1
        self._ended[number] = True
        self._arrivals.add(Rows.failed(number, failure))

    # ---- rebuilding

    def index_of(self, number: int) -> int:
        """The last step whose outcome is held, -1 before the reset's."""
        return int(self._index[number])

    def journaled(self, number: int) -> bool:
        """Whether a journal leads to where the episode is."""
        return self._keeps_journal and self._index[number] != NOTHING and self.journals.holds(number)

    def place_of(self, number: int) -> tuple[Slot, int]:
        """The episode's slot, and its handle there."""
        slot = self._slots[number] or self._away.slot_of(number)
        assert slot is not None
        return slot, int(self._handles[number])

    def out(self, number: int) -> tuple[int, int, bytes] | None:
        """The command that is out."""
        awaited = int(self._awaited[number])
        if awaited == NOTHING:
            return None
        if awaited == 0:
            return 0, pb.COMMAND_KIND_RESET, b""
        return awaited, pb.COMMAND_KIND_STEP, self.journals.journal(number)[1] if self._keeps_journal else b""

    def stand_by(self, number: int, slot: Slot, handle: int) -> None:
        """An episode has no copy for now; ``slot`` keeps what is sent."""
        self.journals.copy_lost(number)
        place = int(self._places[number])
        if place != NOTHING:
            self._blocks[place].forget(int(self._handles[number]))
        self._away.went(number, slot, self.mesh.loop_time())
        self._slots[number], self._places[number], self._handles[number] = None, NOTHING, handle
        self._open[number] = False

    def arrive(self, number: int, slot: Slot, handle: int) -> None:
        """It has one again."""
        self._away.came_back(number, self.mesh.loop_time())
        self._settle(number, slot)
        self._handles[number] = handle
        self._open[number] = True

    def enlist(self, number: int) -> None:
        """Take the events of its handle."""
        self._blocks[self._places[number]].enlist(number, int(self._handles[number]))

    def _end_rebuild(self, number: int) -> None:
        """The episode is not wanted any more, wherever it is being rebuilt."""
        self.members[number].abandon_rebuild()
        if self._away.came_back(number, self.mesh.loop_time()):
            self._handles[number] = 0


def give_back(slot: Slot) -> None:
    """A slot goes where it came from: the pool of another name would take it for what it is not."""
    if isinstance(slot.binding, LeaseBinding):
        slot.binding.pool.give(slot)
