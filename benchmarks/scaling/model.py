"""A modelled control plane: hosts that take time to start, machines that are provisioned, a ReplicaSet that picks its
victims, and episodes that wait for slots. Seeded; time in seconds, in ticks of half a second."""

import heapq
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field

TICK = 0.5
GRACE = 30.0
"""Seconds that a deleted pod has: what is not over then is interrupted."""
NODE_SECONDS = 60.0
NODE_GONE_AFTER = 600.0


@dataclass(eq=False)
class Host:
    number: int
    born: float
    ready_at: float
    slots: int
    episodes: dict[int, "Episode"] = field(default_factory=dict)
    draining: bool = False
    ours: bool = False
    leaving: bool = False
    cost: int = 0
    gone_at: float = math.inf

    @property
    def used(self) -> int:
        return len(self.episodes)


@dataclass(eq=False)
class Episode:
    number: int
    arrived: float
    seconds: float
    attempts: int = 0


@dataclass(frozen=True)
class Trace:
    """``arrivals`` are (when, how long), sorted. ``lost`` are times at which a machine with a host is announced to go
    two minutes later. ``vanish``: at these times everything that runs and waits is given up (its trainer is gone)."""

    name: str
    arrivals: tuple[tuple[float, float], ...]
    seconds: float
    slots: int = 16
    max_hosts: int = 100
    lost: tuple[float, ...] = ()
    vanish: tuple[float, ...] = ()


@dataclass
class Result:
    policy: str
    trace: str
    waits: list[float]
    paid: float
    used: float
    interrupted: int
    lost: int
    history: list[tuple[float, int, int, int]]

    def wait(self, quantile: float) -> float:
        if not self.waits:
            return 0.0
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


class Cluster:
    """One pool under one policy."""

    def __init__(self, trace: Trace, policy, seed: int):
        self.trace, self.policy, self.seed, self.random = trace, policy, seed, random.Random(seed)
        self.created = 0
        self.now = 0.0
        self.replicas = 0
        self.hosts: list[Host] = []
        self.ending: list[Host] = []
        self.queue: deque[Episode] = deque()
        self.ends: list[tuple[float, int, Host, Episode]] = []
        self.numbers = itertools.count()
        self.waits: list[float] = []
        self.paid = self.used = 0.0
        self.interrupted = self.lost = 0
        self.ended = 0
        self.history: list[tuple[float, int, int, int]] = []
        self.nodes: deque[float] = deque()
        """When capacity for one more host was left behind on a machine that stands."""

    # ---- what policies read

    @property
    def ready(self) -> list[Host]:
        return [host for host in self.hosts if host.ready_at <= self.now]

    @property
    def in_use(self) -> int:
        return sum(host.used for host in self.hosts) + sum(host.used for host in self.ending)

    @property
    def oldest(self) -> float:
        return self.now - self.queue[0].arrived if self.queue else 0.0

    # ---- what policies do

    def scale(self, replicas: int) -> list[Host]:
        """Write replicas. Returns the hosts that went: the ReplicaSet's choice."""
        self.replicas = max(0, min(replicas, self.trace.max_hosts))
        while len(self.hosts) < self.replicas:
            self._create()
        ranked = sorted(self.hosts, key=lambda h: (h.ready_at <= self.now, h.cost, -h.ready_at, -h.number))
        gone = ranked[: len(self.hosts) - self.replicas]
        for host in gone:
            self.hosts.remove(host)
            host.gone_at = self.now + (GRACE if host.used else 0.0)
            host.draining = True
            self.ending.append(host)
        return gone

    def _create(self) -> None:
        # The nth host takes as long under every policy: what differs is the policy.
        self.created += 1
        dice = random.Random(f"{self.seed} {self.created}")
        start = dice.lognormvariate(math.log(6.0), 0.35)
        while self.nodes and self.now - self.nodes[0] > NODE_GONE_AFTER:
            self.nodes.popleft()
        if self.nodes:
            self.nodes.pop()
        elif len(self.hosts) + len(self.ending) >= 4:
            start += NODE_SECONDS * dice.uniform(0.8, 1.3)
        number = next(self.numbers)
        self.hosts.append(Host(number, self.now, self.now + start, self.trace.slots))

    # ---- the run

    def run(self) -> Result:
        arrivals, lost, vanish = deque(self.trace.arrivals), deque(self.trace.lost), deque(self.trace.vanish)
        dooms: list[tuple[float, int, Host]] = []
        while self.now < self.trace.seconds:
            while arrivals and arrivals[0][0] <= self.now:
                when, seconds = arrivals.popleft()
                self.queue.append(Episode(next(self.numbers), when, seconds))
            while vanish and vanish[0] <= self.now:
                vanish.popleft()
                self._give_up()
            if lost and lost[0] <= self.now:
                lost.popleft()
                if self.ready:
                    host = self.random.choice(self.ready)
                    host.leaving = True
                    heapq.heappush(dooms, (self.now + 120.0, host.number, host))
            while dooms and dooms[0][0] <= self.now:
                self._lose(heapq.heappop(dooms)[2])
            self._end()
            self._place()
            self.policy.act(self)
            hosts = len(self.hosts) + len(self.ending)
            self.paid += hosts * self.trace.slots * TICK
            self.used += self.in_use * TICK
            if self.now % 5.0 == 0.0:
                self.history.append((self.now, self.in_use, len(self.queue), hosts))
            self.now += TICK
        self.waits += [self.now - episode.arrived for episode in self.queue]
        return Result(
            self.policy.name,
            self.trace.name,
            self.waits,
            self.paid / 3600,
            self.used / 3600,
            self.interrupted,
            self.lost,
            self.history,
        )

    def _place(self) -> None:
        if not self.queue:
            return
        room = [h for h in self.hosts if h.ready_at <= self.now and not h.draining and h.used < h.slots]
        room.sort(key=lambda host: host.used)
        while self.queue and room:
            host = room[-1]
            episode = self.queue.popleft()
            if episode.attempts == 0:
                self.waits.append(self.now - episode.arrived)
            episode.attempts += 1
            host.episodes[episode.number] = episode
            heapq.heappush(self.ends, (self.now + episode.seconds, episode.number, host, episode))
            if host.used >= host.slots:
                room.pop()

    def _end(self) -> None:
        while self.ends and self.ends[0][0] <= self.now:
            _, number, host, _ = heapq.heappop(self.ends)
            if host.episodes.pop(number, None) is not None:
                self.ended += 1
        for host in [h for h in self.ending if h.gone_at <= self.now or not h.used]:
            self.ending.remove(host)
            self.interrupted += host.used
            self._requeue(host)
            self.nodes.append(self.now)

    def _lose(self, host: Host) -> None:
        """The machine is gone; the Deployment makes another host."""
        if host in self.hosts:
            self.hosts.remove(host)
            self.lost += host.used
            self._requeue(host)
            self.scale(self.replicas)

    def _requeue(self, host: Host) -> None:
        for episode in host.episodes.values():
            self.queue.appendleft(episode)
        host.episodes = {}

    def _give_up(self) -> None:
        self.queue.clear()
        for host in (*self.hosts, *self.ending):
            host.episodes.clear()
