"""What plays behind ``mesh.rollouts(environment, policy, ...)``.

Each slot plays one episode after another. With a synchronous or batched policy the connection's reader plays them
itself: an event comes in, the policy is asked, the next command goes out, without a future or a task an episode. An
asynchronous policy is user code that waits, and gets a real task an episode.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from envmesh.batch_players import BatchPlayers
from envmesh.env import Task
from envmesh.episode import Beginning
from envmesh.errors import MeshUnavailable
from envmesh.groups import check_counts
from envmesh.left_episodes import LeftEpisodes
from envmesh.measured import MeasuredPolicyPlayer, MeasuredTaskPlayer
from envmesh.outcome import EnvironmentSpec, Trajectory
from envmesh.players import PolicyPlayer
from envmesh.policies import check_fits, kind_of
from envmesh.policy_block import PolicyBlock
from envmesh.progress import Progress
from envmesh.recording import Recorder
from envmesh.rollout_plan import RolloutPlan
from envmesh.rollout_results import RolloutResults
from envmesh.slot import Slot
from envmesh.stream import HostConnection
from envmesh.task_player import TaskPlayer
from envmesh.traced import player_of

if TYPE_CHECKING:
    from envmesh.mesh import Mesh

__all__ = ["RolloutRun"]

DEFAULT_CONCURRENCY = 64
BACKLOG_EPISODES = 256


class RolloutRun:
    """One iteration over rollouts: what is planned, what is being played, and what has ended and is not fetched yet.

    Its arguments are those of ``Rollouts``, which stands before it. Whatever plays an episode knows this object, and
    only whoever iterates knows that one: when nobody does any more, this is closed.
    """

    def __init__(
        self,
        mesh: Mesh,
        environment: str,
        policy: Any,
        *,
        episodes: int | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        tasks: Iterable[str | Task] | None = None,
        group_size: int = 1,
        spares: int = 0,
        retries: int = 0,
        seed: int | None = None,
        seeds: Iterable[int] | None = None,
        options: Mapping[str, Any] | None = None,
        grade: bool = False,
        max_steps: int | None = None,
        record: Any = None,
        progress: bool = False,
        measure: bool = False,
        timeout: float | None = None,
    ):
        check_counts(episodes, concurrency=concurrency, group_size=group_size, spares=spares, retries=retries)
        self.mesh = mesh
        self.environment = environment
        self.policy = policy
        kind = self.kind = kind_of(policy)
        self.episodes = episodes
        members = group_size + spares
        most = concurrency if episodes is None else episodes // group_size * members
        self.concurrency = max(1, min(concurrency, most))
        self.group_size = group_size
        self.grade = grade
        self.max_steps = max_steps
        self.spec: EnvironmentSpec | None = None
        self.live: set[Any] = set()
        self.peak = 0
        self.step_seconds = array("d")
        self.reset_seconds = array("d")
        self.batch = BatchPlayers(self) if kind.batched else None
        self._player_kinds: tuple[type[PolicyPlayer], type[PolicyPlayer]] = (
            (MeasuredPolicyPlayer, MeasuredTaskPlayer) if measure else (PolicyPlayer, TaskPlayer)
        )
        self._timeout = mesh.slot_patience(timeout)
        self.retries = retries
        self._plan = RolloutPlan(
            episodes, group_size=group_size, members=members, retries=retries,
            draw_seed=partial(random.Random(seed).getrandbits, 31), seeds=seeds, tasks=tasks, options=options,
        )  # fmt: skip
        self._parked: list[Slot] = []
        self._left = LeftEpisodes(self)
        self._arrived = asyncio.Event()
        self._error: BaseException | None = None
        plain = not (kind.asynchronous or kind.batched or kind.per_episode or isinstance(policy, Mapping))
        self._in_blocks = plain and max_steps is None and not measure and mesh.journal is None
        self._blocks: dict[HostConnection, PolicyBlock] = {}
        self._name = ""
        self._started = self._closed = False
        self._loop: asyncio.AbstractEventLoop
        self._asked: deque[float] = deque()
        """When each slot was asked for that has not come yet, the first one first."""
        self._slot_waiters: list[asyncio.Future[Slot]] = []
        self._slot_deadline: asyncio.TimerHandle | None = None
        self._results = RolloutResults(
            mesh, group_size, Recorder.open(record) if record is not None else None,
            Progress(environment, episodes) if progress else None,
        )  # fmt: skip

    # ---- for whoever iterates

    async def take(self, most: int) -> list[Any]:
        """What has ended, at least one and at most so many; nothing once everything asked for was taken.

        Raises:
            BaseException: what ended the iteration: a policy's error, no slot to be had, a full disk.
        """
        if not self._started and not self._closed:
            await self._start()
        results = self._results
        while not len(results):
            if self._error is not None:
                self.close()
                raise self._error
            if self._finished():
                results.all_were_had()
                if not self._closed:
                    self.close()
                    self._plan.check_complete()
                return []
            self._arrived.clear()
            await self._arrived.wait()
        taken = results.take(most)
        if self._parked and len(results) < BACKLOG_EPISODES // 2:
            self._unpark()
        return taken

    def close_soon(self) -> None:
        """Close what is open, in the event loop; may be called from any thread, and when the loop has ended."""
        if not self._started or self._closed:
            return
        try:
            self._loop.call_soon_threadsafe(self.close)
        except RuntimeError:  # it is closed, and everything with it
            pass

    def client_closes(self) -> None:
        """Whoever still iterates hears that the client is closed."""
        self.fail(MeshUnavailable("the client was closed while its rollouts went on"))
        self.close()

    def close(self) -> None:
        """Close what is open and give the slots back."""
        if self._closed:
            return
        self._abandon()
        if self._started and self.mesh.journal is not None:
            self.mesh.journal.leave_run(self._name)
        self.mesh.rollout_runs.discard(self)
        if self._slot_deadline is not None:
            self._slot_deadline.cancel()
        self._results.close()

    def _abandon(self) -> None:
        self._closed = True
        pool = self.mesh.pool(self.environment)
        for player in list(self.live):
            player.cancel()
            pool.give(player.slot)
        self.live.clear()
        for block in self._blocks.values():
            block.close()
        for waiter in self._slot_waiters:
            waiter.cancel()
        for slot in self._parked:
            pool.give(slot)
        self._parked.clear()

    async def _start(self) -> None:
        self.mesh.check_usable()
        spec = await self.mesh.describe(self.environment)
        check_fits(self.policy, self.kind, spec)
        if self._started or self._closed:  # by somebody else, meanwhile
            return
        self.spec, self._started, self._loop = spec, True, asyncio.get_running_loop()
        self.mesh.rollout_runs.add(self)
        try:
            self._begin_to_play(spec)
        except BaseException:
            self.close()
            raise

    def _begin_to_play(self, spec: EnvironmentSpec) -> None:
        self._name = self.mesh.name_run(spec.name)
        self._results.start()
        self._plan.start(self._name, seeded=spec.seeded)
        self._take_up_unfinished()
        self.fill()

    def fill(self) -> None:
        """Ask for as many slots as are wanting, where there is something to play."""
        following = None if self._closed else self._following()
        wanting = self.concurrency - len(self.live) - len(self._asked) - len(self._parked)
        if following is not None:
            self._plan.play_again(*following, next_of_all=True)
            self._want(max(0, wanting))

    def _take_up_unfinished(self) -> None:
        """Go on with what the journal's former owner has left of this run; what had ended is handed out as it is. Each
        group waits for all of its members before the first of them is looked at: it is full as soon as it was before,
        and what it has no use for is never played."""
        if (journal := self.mesh.journal) is None:
            return
        self._plan.leave_out(journal.done.get(self._name, ()))
        begun, ended = self._left.find(journal, self._name)
        for player in (*begun, *ended):
            self._plan.take_up(player.beginning)
            self._results.expect(player)
        for player in ended:
            if self._results.waits_for(player):
                self._deliver(player, player.trajectory)
        self._left.take_up()

    @property
    def has_room(self) -> bool:
        """Whether one more episode may be played beside those that are."""
        return len(self.live) < self.concurrency and not self._closed and self._error is None

    def note_live(self, player: PolicyPlayer) -> None:
        """An episode is being played from now on."""
        self.live.add(player)
        self.peak = max(self.peak, len(self.live))

    def _no_slot(self) -> None:
        if not (self.live or self._parked or self._closed) and self._asked:
            self.fail(self.mesh.pool(self.environment)._patience_ended(self._timeout))

    def _finished(self) -> bool:
        return self._closed or (self._plan.over and not self.live and not self._left)

    def fail(self, error: BaseException) -> None:
        """End the whole iteration with an error: a policy's, no slot to be had, a recording that cannot be written."""
        if self._error is None:
            self._error = error
        self._arrived.set()

    # ---- slots

    def _want(self, count: int) -> None:
        self._asked.extend([self._loop.time()] * count)
        if not self.live:  # from now on nothing may be played for so long
            if self._slot_deadline is not None:
                self._slot_deadline.cancel()
            self._slot_deadline = self._loop.call_later(self._timeout, self._no_slot)
        waiters = self.mesh.pool(self.environment).want(count, self._slot_came, self.fail)
        self._slot_waiters = [waiter for waiter in (*self._slot_waiters, *waiters) if not waiter.done()]

    def _slot_came(self, slot: Slot) -> None:
        asked_at = self._asked.popleft()
        if self.mesh.meters is not None:
            self.mesh.meters.slot_came(self._loop.time() - asked_at)
        if self._closed:
            self.mesh.pool(self.environment).give(slot)
            return
        self.play_on(slot)

    def play_on(self, slot: Slot) -> None:
        """Begin the next episode on a slot; park it while the consumer is behind, give it back when all are planned."""
        if self._closed or self._error is not None:
            self.mesh.pool(self.environment).give(slot)
            return
        if self._left:
            self.mesh.pool(self.environment).give(slot)  # they have slots of their own, or seek them
            self._left.take_up()
            return
        if not slot.usable:
            self._ask_for_slot()
            return
        if len(self._results) >= max(BACKLOG_EPISODES, self.concurrency):
            self._parked.append(slot)
            return
        following = self._following()
        if following is None:
            self.mesh.pool(self.environment).give(slot)
            self._arrived.set()
            return
        beginning, retries = following
        self._play(slot, beginning, retries)

    def policy_of(self, beginning: Beginning) -> tuple[Any, type[PolicyPlayer]]:
        """The policy of an episode, and who plays with it. Raises: what a factory of policies raises; TypeError where
        it makes none."""
        policy, kind = self.policy, self.kind
        if kind.per_episode:
            policy = policy(seed=beginning.seed, task=beginning.task)
            kind = kind_of(policy)
            if kind.batched or kind.per_episode:
                raise TypeError("a factory marked with @per_episode makes a plain or an async policy")
        return policy, self._player_kinds[kind.asynchronous and not kind.batched]

    def _play(self, slot: Slot, beginning: Beginning, retries: int) -> None:
        try:
            policy, kind = self.policy_of(beginning)
        except BaseException as error:  # of a policy that is made for each episode
            self.fail(error)
            self.mesh.pool(self.environment).give(slot)
            return
        spec = slot.binding.spec
        assert spec is not None
        trajectory = Trajectory(
            spec, secrets.token_bytes(16), seed=beginning.seed, options=None,
            packed_options=beginning.packed_options, task=beginning.task, split=beginning.split, group=beginning.group,
        )  # fmt: skip
        player = player_of(self, kind, slot, spec, beginning, trajectory, retries)
        player.policy = policy
        self.note_live(player)
        self._results.expect(player)
        player.begin()

    def _following(self) -> tuple[Beginning, int] | None:
        """What is to be played next; where the caller's seeds or tasks raise, the iteration ends with that."""
        try:
            return self._plan.following()
        except BaseException as error:
            self.fail(error)
            return None

    def block(self, slot: Slot, spec: EnvironmentSpec) -> PolicyBlock | None:
        """Who plays the ordinary steps of an episode together with those of others; None where each plays its own."""
        if not self._in_blocks or spec.agents:
            return None
        connection = slot.connection
        block = self._blocks.get(connection)
        if block is None:
            block = self._blocks[connection] = PolicyBlock(self, connection, spec)
        return block

    def forget(self, connection: HostConnection) -> None:
        """A host is lost: nothing is played there any more."""
        self._blocks.pop(connection, None)
        self._slot_waiters = [waiter for waiter in self._slot_waiters if not waiter.done()]

    def _ask_for_slot(self) -> None:
        """Instead of one that is gone, where there is still something to play: it might not come."""
        if self._left:
            self._left.take_up()
            return
        following = None if self._closed else self._following()
        if following is not None:
            self._plan.play_again(*following, next_of_all=True)
            self._want(1)
        elif self._finished():
            self._arrived.set()

    def _unpark(self) -> None:
        parked, self._parked = self._parked, []
        for slot in parked:
            self.play_on(slot)

    def elsewhere(self, player: Any) -> None:
        """A host did not take an episode: play it on another slot."""
        self.live.discard(player)
        self._results.expect_no_more(player)
        if not self._closed:
            self._plan.play_again(player.beginning, player.retries)
            self._ask_for_slot()

    # ---- ends

    def finished(self, player: Any, slot: Slot | None) -> None:
        """An episode is over; ``slot`` is free for the next one, None where it is gone."""
        self.live.discard(player)
        trajectory: Trajectory = player.trajectory
        failure = trajectory.failure
        if failure is not None and failure.retryable and player.retries > 0 and not self._closed:
            self._results.expect_no_more(player)
            if player.log is not None:
                player.log.forget()
            self._plan.play_again(player.beginning, player.retries - 1)
        elif not self._closed:
            try:
                self._deliver(player, trajectory)
            except Exception as error:  # a full disk; an annotation that cannot be recorded
                self.fail(error)
        if slot is not None:
            self.play_on(slot)
            slot.close_over()  # where none was begun on it
        else:
            self._ask_for_slot()
        if self._finished():
            self._arrived.set()

    def _deliver(self, player: Any, trajectory: Trajectory) -> None:
        group = player.beginning.group
        to_come = self._plan.to_come(group) if group is not None and trajectory.failure is not None else 0
        stragglers = self._results.add(player, trajectory, len(self.live), to_come)
        if stragglers is not None:
            self._plan.give_up(group)
        for straggler in stragglers or ():
            self._left.leave(straggler)
            if straggler in self.live:
                straggler.cancel()
                self.live.discard(straggler)
                self.play_on(straggler.slot)
        if len(self._results):
            self._arrived.set()
