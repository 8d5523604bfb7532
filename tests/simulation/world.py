"""Hosts, a broker and the time between them, simulated: the real engine, slots and copies, the real broker's core.

What is simulated is what surrounds them: a network that delays, holds and loses, processes that freeze and die, and
workers that take their time. Everything is drawn from one seed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, cast

from envmesh.env import Definition
from envmesh.errors import Refusal
from envmesh.target import load
from envmesh.v1 import environment_pb2 as pb
from envmesh_broker.core import Core, CoreBounds, Refused
from envmesh_broker.hosts import Host, HostState, LeaseRow, Report
from envmesh_broker.ledger import LedgerBounds
from envmesh_host.connection import Connection
from envmesh_host.engine import Engine
from envmesh_host.hosted import Hosted
from envmesh_host.isolation.runner import Job
from envmesh_host.player import Player
from envmesh_host.served import Served
from envmesh_host.settings import HostSettings
from envmesh_host.slots import Claim, SlotTable
from envmesh_host.upkeep import expiry
from envmesh_service.credentials import ANYBODY

__all__ = ["WINDOW", "Link", "SimulatedHost", "Violation", "World"]

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


class World:
    """Events on a heap, each (time, number, what to do)."""

    def __init__(self, seed: int):
        self.dice = random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.numbers = itertools.count()
        self.ids = itertools.count(1)
        self.hosts: list[SimulatedHost] = []
        self.begun: Callable[[SimulatedHost, Job], None] = lambda host, job: None
        self.poison: tuple[int, int] | None = None
        self.poison_kills_host = False
        self.claims: dict[bytes, Claim] = {}
        self.counts: Counter[str] = Counter()
        self.explained: set[str] = set()
        self.new_broker()

    def after(self, seconds: float, work: Callable[..., None], *arguments: Any) -> None:
        """Do something later."""
        heapq.heappush(self.events, (self.now + seconds, next(self.numbers), work, arguments))

    def run(self, until: float, finished: Callable[[], bool]) -> None:
        """Let time pass until ``finished``, or ``until``."""
        while self.events and self.events[0][0] <= until and not finished():
            self.now, _, work, arguments = heapq.heappop(self.events)
            work(*arguments)

    def new_id(self) -> bytes:
        """Sixteen bytes that nothing else has."""
        return next(self.ids).to_bytes(16, "big")

    # ---- the broker

    def new_broker(self) -> None:
        """The broker begins, or begins again with nothing in mind."""
        bounds = CoreBounds(ledger=LedgerBounds(settle=1.0, liveness=4.0, forget=20.0))
        self.core = Core(self.now, new_id=self.new_id, bounds=bounds)
        self.waiting: dict[int, Callable[[Any], None]] = {}
        self.broker_life = next(self.numbers)

    def ask(self, environment: str, relocation: bool, then: Callable[[Any], None]) -> int:
        """Ask for one slot; ``then`` hears of the grant, unless the answer is lost. Returns a number to withdraw by."""
        asked = self.core.ask(self.now, "default", environment, 1, relocation=relocation, client_id=CLIENT)
        if isinstance(asked, Refused):
            return 0
        self.waiting[asked.request.arrival] = then
        self.after(0.0, self.decide)
        return asked.request.arrival

    def withdraw(self, arrival: int) -> None:
        """Give up what was asked for; a broker that began since knows of nothing."""
        if self.waiting.pop(arrival, None) is not None:
            self.core.withdraw(arrival)

    def decide(self) -> None:
        """Let the broker give out what is free."""
        for decision in self.core.decide(self.now):
            then = self.waiting.pop(decision.arrival)
            for grant in decision.grants:
                token = grant.lease_id
                self.claims[token] = Claim(
                    lease_id=token, tenant="default", environment=grant.environment, count=grant.count,
                    client_id=CLIENT, relocation=grant.relocation,
                )  # fmt: skip
                if self.dice.random() > 0.03:
                    self.after(self.dice.uniform(0.0, 0.2), then, grant)

    def replace_host(self) -> None:
        """Whoever keeps the hosts running starts another where there are too few."""
        if len(self.hosts) < 2:
            self.hosts.append(SimulatedHost(self))

    def tick(self) -> None:
        """The clocks of broker and hosts."""
        self.core.tick(self.now)
        self.decide()
        for host in list(self.hosts):
            host.tick()
        self.after(1.0, self.tick)


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


class Link:
    """A connection as both sides see it. Each direction keeps its order; what is in it may be held, and be stale."""

    def __init__(self, host: SimulatedHost, hear: Callable[[Link, Any], None], lost: Callable[[Link], None]):
        self.host = host
        self.world = host.world
        hello = pb.Hello(client_id=CLIENT, connection_id=self.world.new_id())
        self.connection = Connection(host.engine, hello, ANYBODY, lease_idle=6.0, liveness_window=WINDOW)
        self.connection.wake = lambda: self.world.after(0.0, self.flush)
        self.handles = itertools.count(1)
        self.sessions: dict[int, Any] = {}
        self.open = True
        """As the client sees it."""
        self.heard = self.host_heard = self.world.now
        self._hear, self._lost = hear, lost
        self._held: deque[tuple[int, int, int, bytes]] = deque()
        self._on_its_way: deque[Any] = deque()
        self._arrivals = {"host": 0.0, "client": 0.0}
        host.links.append(self)

    def _arrival(self, side: str) -> float:
        at = self.world.now + self.world.dice.uniform(0.001, 0.15)
        at = max(at, self._arrivals[side], self.host.cut_until)
        self._arrivals[side] = at
        return at - self.world.now

    def send(self, kind: int, handle: int, index: int, payload: bytes) -> None:
        """A command, from the client."""
        self.host.after(self._arrival("host"), self._arrives, (kind, handle, index, payload))

    def heartbeat(self, answer: int) -> None:
        """The client is there, and has answered a challenge."""
        self.host.after(self._arrival("host"), self._arrives, answer)

    def _arrives(self, message: Any) -> None:
        if self not in self.host.links:
            return
        connection = self.connection
        if self.world.now - self.host_heard > WINDOW:
            connection.challenge += 1
        self.host_heard = self.world.now
        if isinstance(message, int):
            connection.answered = max(connection.answered, message)
        else:
            self._held.append(message)
        while self._held and not connection.fenced:
            kind, handle, index, payload = self._held.popleft()
            connection.command(kind, handle, index, payload, 0)
        self.flush()

    def flush(self) -> None:
        """What the host has to say goes on its way."""
        outbox = self.connection.outbox
        if len(outbox) and self.host.alive:
            columns = list(zip(outbox.handles, outbox.indices, outbox.kinds, outbox.payloads, outbox.rewards,
                               outbox.flags, outbox.digests, outbox.infos, strict=True))  # fmt: skip
            outbox._clear()
            self._tell(columns)

    def beat(self) -> None:
        """The host is there; while it is fenced, it says so."""
        self._tell(self.connection.challenge)
        if self.world.now - self.host_heard > 3 * WINDOW:
            self.broken()

    def _tell(self, said: Any) -> None:
        self._on_its_way.append(said)
        self.world.after(self._arrival("client"), self._told)

    def _told(self) -> None:
        if not self.open:
            return
        if self.host.cut_until > self.world.now:
            self.world.after(self.host.cut_until - self.world.now, self._told)
            return
        said = self._on_its_way.popleft()
        self.heard = self.world.now
        if isinstance(said, int):
            self.heartbeat(said)
            return
        for row in said:
            if self.open:
                self._hear(self, row)

    def broken(self) -> None:
        """Both sides learn that it is over, the host if it is there."""
        if self in self.host.links:
            self.host.links.remove(self)
            if self.host.alive:
                self.connection.lost()
        if self.open:
            self.open = False
            self._lost(self)
