"""A host in the simulated world: the real engine, slots and copies, and workers that take their time and die."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from envmesh.env import Definition
from envmesh.errors import Refusal
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh_broker.hosts import Host, HostState, LeaseRow, Report
from envmesh_host.engine import Engine
from envmesh_host.hosted import Hosted
from envmesh_host.isolation.runner import Job
from envmesh_host.player import Player
from envmesh_host.served import Served
from envmesh_host.settings import HostSettings
from envmesh_host.slots import Claim, SlotTable
from envmesh_host.upkeep import expiry

if TYPE_CHECKING:
    from tests.simulation.link import Link
    from tests.simulation.world import World

__all__ = ["CLIENT", "DEFINITIONS", "WINDOW", "SimulatedHost", "Violation"]

WINDOW = 3.0


SLOTS = 6


CLIENT = b"c" * 16


SETTINGS = HostSettings(reattach_window=8.0, lease_idle=6.0, unary_idle=10.0)


TARGETS = {name: f"tests.simulation.played:{name.capitalize()}" for name in ("replayed", "saved", "paying")}


DEFINITIONS: dict[str, tuple[Definition, Served]] = {}
for _name, _target in TARGETS.items():
    _definition = load(_target)
    DEFINITIONS[_name] = _definition, Served.prepare(_definition)


class Violation(AssertionError):
    """A promise was broken."""


class Rights:
    """A mesh where every lease is true and every seal fits."""

    def __init__(self, world: World):
        self._world = world

    def claim(self, token: bytes, client_id: bytes, known: Any) -> Claim:
        return self._world.claims[token]

    def seal(self, copy: Any, content: bytes) -> pb.SealedCheckpoint:
        return pb.SealedCheckpoint(index=copy.index, content=content, seal=b"true")

    def check_seals(self, journal: pb.Journal, tenant: str) -> None:
        return None


class Seat:
    """Where an episode is: its worker, and what plays it."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.player: Any = None
        self.seed = -1
        self.job: Job | None = None


class Worker:
    """A process: it dies with all that is in it."""

    def __init__(self) -> None:
        self.seats: list[Seat] = []
        self.alive = True


class SimulatedRunner:
    """Plays with the real players, in workers that take their time and may die."""

    stuck = 0

    def __init__(self, host: SimulatedHost, served: Served):
        self._host = host
        self._served = served
        self._workers = [Worker(), Worker()]

    def seat(self, *, apart: bool = False) -> Seat:
        return Seat()

    def submit(self, job: Job) -> None:
        dice = self._host.world.dice
        if job.kind == pb.COMMAND_KIND_CLOSE:
            if job.seat.worker is not None and job.seat in job.seat.worker.seats:
                job.seat.worker.seats.remove(job.seat)
            return
        if job.seat.worker is None:
            self._place(job)
        job.seat.job = job
        slow = dice.random() < 0.05
        self._host.after(dice.uniform(0.5, 4.0) if slow else dice.uniform(0.0, 0.1), self._play, job)

    def _place(self, job: Job) -> None:
        number = self._host.world.dice.randrange(len(self._workers))
        if not self._workers[number].alive:
            self._workers[number] = Worker()
        worker = self._workers[number]
        if job.kind == pb.COMMAND_KIND_RESUME:
            request = pb.ResumeRequest.FromString(job.payload)
            job.seat.seed = int.from_bytes(request.episode_id[8:], "big")
            if request.apart:
                worker = Worker()
        else:
            job.seat.seed = pb.ResetRequest.FromString(job.payload).seed
        job.seat.worker = worker
        worker.seats.append(job.seat)

    def _play(self, job: Job) -> None:
        seat = job.seat
        if seat.job is not job or not seat.worker.alive:
            return
        world = self._host.world
        if job.kind == pb.COMMAND_KIND_STEP:
            world.begun(self._host, job)
            if (seat.seed, job.index) == world.poison:
                world.counts["poisonings"] += 1
                if world.poison_kills_host:
                    self._host.die()
                else:
                    self.kill(seat.worker, by=seat)
                return
        try:
            row: Any = self._carry_out(job)
        except Refusal as refusal:
            row = refusal
        seat.job = None
        job.done(job, row)

    def _carry_out(self, job: Job) -> Any:
        seat = job.seat
        if seat.player is None:
            seat.player = Player(self._served)
        if job.kind == pb.COMMAND_KIND_RESET:
            return seat.player.reset(pb.ResetRequest.FromString(job.payload))
        if job.kind == pb.COMMAND_KIND_RESUME:
            return seat.player.resume(pb.ResumeRequest.FromString(job.payload))
        return (
            seat.player.checkpoint()
            if job.kind == pb.COMMAND_KIND_CHECKPOINT
            else seat.player.step(job.payload)
        )

    def kill_one(self) -> None:
        """Somebody outside kills a worker."""
        self.kill(self._workers[self._host.world.dice.randrange(len(self._workers))], by=None)

    def kill(self, worker: Worker, by: Seat | None) -> None:
        """A worker dies. The host tells what it knows: who ran, and whether it was from outside."""
        worker.alive = False
        seats, worker.seats = worker.seats, []
        running = [seat for seat in seats if seat.job is not None]
        if by is None:
            reason = "WORKER_LOST"
        else:
            reason = "WORKER_CRASHED" if len(running) == 1 else "WORKER_SUSPECTED"
        refusal = Refusal("the worker died", reason=reason)
        for seat in running:
            job, seat.job = seat.job, None
            if job is not None:
                job.done(job, refusal)
        idle = [seat for seat in seats if seat not in running]
        self._host.engine.copies_lost(idle, Refusal("a worker died", reason="WORKER_LOST"))


class SimulatedHost:
    """One life of a host process."""

    def __init__(self, world: World):
        self.world = world
        self.host_id = f"h{next(world.numbers)}"
        self.alive = True
        self.frozen_until = self.cut_until = 0.0
        self.last_tick = world.now
        self.links: list[Link] = []
        self.hosted = []
        for definition, served in DEFINITIONS.values():
            one = Hosted(served.info, served=None, runner=cast(Any, SimulatedRunner(self, served)), reuse=False,
                         definition=definition)  # fmt: skip
            one.checkpoint_steps = 3
            self.hosted.append(one)
        self.engine = Engine(self.hosted, SlotTable(SLOTS), cast(Any, Rights(world)), clock=lambda: world.now)
        self.engine.stopwatch, self.engine.later = (
            lambda: world.now,
            self.after,
        )  # a slow machine changes no history
        self.session = 0
        self.register()

    def after(self, seconds: float, work: Callable[..., None], *arguments: Any) -> None:
        """Do something later, if this process lives, and not while it is frozen."""

        def do() -> None:
            if not self.alive:
                return
            if self.frozen_until > self.world.now:
                self.world.after(self.frozen_until - self.world.now + 0.001, do)
            else:
                self.wake_up()
                work(*arguments)

        self.world.after(seconds, do)

    def wake_up(self) -> None:
        """Notice a pause of its own, before anything else is done."""
        pause, self.last_tick = self.world.now - self.last_tick, self.world.now
        if pause > WINDOW:
            for link in self.links:
                link.connection.challenge += 1

    def tick(self) -> None:
        """What a host does by the clock."""
        if not self.alive or self.frozen_until > self.world.now:
            return
        self.wake_up()
        engine = self.engine
        for holding, count in engine.slots.lapse(self.world.now, SETTINGS.lease_idle):
            for link in self.links:
                link.connection.slots_returned(holding, count)
                link.flush()
        for copy in list(engine.episodes.values()):
            if (why := expiry(copy, SETTINGS, self.world.now)) is not None:
                engine.close(copy, Refusal(why, reason="EXPIRED"))
        for link in list(self.links):
            link.beat()
        self.report()
        self.check()

    def register(self) -> None:
        """Say hello to the broker."""
        self.broker_life = self.world.broker_life
        self.session = self.world.core.register(
            Host(host_id=self.host_id, pool="p", address=f"{self.host_id}:1", slots=SLOTS,
                 environments=tuple(one.key for one in self.hosted), max_hosts=9), self.world.now)  # fmt: skip

    def report(self) -> None:
        """Tell the broker the whole picture."""
        slots = self.engine.slots
        rows = [LeaseRow(h.lease_id, h.tenant, h.environment, h.in_use, h.idle, h.client_id) for h in slots]
        rows += [LeaseRow(h.lease_id, h.tenant, h.environment, 0, 0, h.client_id) for h in slots.take_ended()]
        if self.broker_life != self.world.broker_life:
            self.register()
        state = HostState.DRAINING if self.engine.draining else HostState.READY
        told = self.world.core.report(self.host_id, self.session, Report(state, tuple(rows)), self.world.now)
        if told is None:
            self.register()
        else:
            slots.recall(told.recalls)

    def check(self) -> None:
        """Slots are conserved, and no more are in use than there are."""
        slots = self.engine.slots
        held = {episode for holding in slots for episode in holding.episodes}
        if held != set(self.engine.episodes) or slots.in_use != len(held) or slots.held > SLOTS:
            raise Violation(
                f"{self.host_id}: {slots.in_use} in use of {slots.held} held, {len(self.engine.episodes)} episodes"
            )
        if any(holding.idle < 0 for holding in slots):
            raise Violation(f"{self.host_id}: two episodes in one slot")

    # ---- accidents

    def die(self) -> None:
        """The process is gone."""
        self.alive = False
        self.world.hosts.remove(self)
        self.world.core.disconnected(self.host_id, self.session, self.world.now)
        for link in self.links:
            self.world.after(self.world.dice.uniform(0.0, 0.3), link.broken)
        self.world.after(2.0, self.world.replace_host)

    def drain(self, draining: bool) -> None:
        """It takes nothing new and sends its episodes away; or it does so no more."""
        self.engine.draining = draining
        if draining:
            self.engine.save_all()
        for link in self.links:
            link.connection.notify_draining(draining, None)
            link.flush()
