"""Hosts, a broker and the time between them, simulated: the real engine, slots and copies, the real broker's core.

What is simulated is what surrounds them: a network that delays, holds and loses, processes that freeze and die, and
workers that take their time. Everything is drawn from one seed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from envmesh_broker.core import Core, CoreBounds, Refused
from envmesh_broker.ledger import LedgerBounds
from envmesh_host.isolation.runner import Job
from envmesh_host.slots import Claim
from tests.simulation.host import CLIENT, SimulatedHost

__all__ = ["World"]


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
