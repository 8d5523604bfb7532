"""The desk: where calls wait for what the broker's mind decides.

It runs the mind's passes on the event loop. All requests that arrive in one turn of the loop are decided in one pass,
and what comes free is gathered for a few milliseconds, so that a thousand reporting hosts do not cause a thousand
passes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator

from envmesh_broker.core import Core, Refused
from envmesh_broker.queue import Waiting
from envmesh_broker.scheduler import Decision
from envmesh_service.clock import Clock

__all__ = ["Desk", "Ticket"]

_GATHER = 0.005
"""Seconds for which freed slots are gathered before they are given out."""


class Ticket:
    """One waiting call."""

    __slots__ = ("_waker", "considered", "news", "waiting")

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.news: deque[Decision | Refused] = deque()
        self.considered = False
        """Whether a pass has looked at it."""
        self._waker: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """There is news, or the first pass is over."""
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait for news, for the first pass, or for the time to pass."""
        if not self.news and seconds > 0:
            self._waker = asyncio.get_running_loop().create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._waker


class Desk:
    """Hands requests to the mind and decisions to those who wait."""

    def __init__(self, core: Core, clock: Clock) -> None:
        self.core = core
        self.clock = clock
        self._tickets: dict[int, Ticket] = {}
        self._fresh: list[Ticket] = []
        self._soon: asyncio.Handle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._watchers: set[asyncio.Event] = set()

    @contextlib.contextmanager
    def enter(self, waiting: Waiting) -> Iterator[Ticket]:
        """Wait at the desk. On leaving, what is still wanted is given up, and so is what was granted and not taken."""
        arrival = waiting.request.arrival
        ticket = self._tickets[arrival] = Ticket(waiting)
        self._fresh.append(ticket)
        self.nudge()
        try:
            yield ticket
        finally:
            del self._tickets[arrival]
            self.core.withdraw(arrival)
            for item in ticket.news:
                if isinstance(item, Decision):
                    for grant in item.grants:
                        self.core.ledger.release(grant.host_id, grant.lease_id)
                    self.freed()

    @contextlib.contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """An event that is set when somebody must wait, or when a host comes, goes, or changes what it does."""
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            yield event
        finally:
            self._watchers.discard(event)

    def moved(self) -> None:
        """Tell those who watch, if there is something to tell."""
        if self.core.moved:
            self.core.moved = False
            for event in self._watchers:
                event.set()

    def nudge(self) -> None:
        """There is a new request: decide at the end of this turn of the loop."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._pass)

    def freed(self) -> None:
        """Something may have come free: decide in a few milliseconds, if anybody waits."""
        if self._later is None and self._tickets:
            self._later = asyncio.get_running_loop().call_later(_GATHER, self._pass)

    def tick(self) -> None:
        """Time has passed."""
        for refused in self.core.tick(self.clock()):
            self._tell(refused.arrival, refused)
        self.nudge()

    def send_away(self, refused: Refused) -> None:
        """The broker ends: everybody who waits is told."""
        for ticket in self._tickets.values():
            ticket.news.append(refused)
            ticket.wake()

    def close(self) -> None:
        """No pass runs any more."""
        for handle in (self._soon, self._later):
            if handle is not None:
                handle.cancel()

    def _pass(self) -> None:
        for handle in (self._soon, self._later):
            if handle is not None:
                handle.cancel()
        self._soon = self._later = None
        for decision in self.core.decide(self.clock()):
            self._tell(decision.arrival, decision)
        fresh, self._fresh = self._fresh, []
        for ticket in fresh:
            ticket.considered = True
            ticket.wake()
            self.core.moved = self.core.moved or ticket.waiting.remaining > 0
        self.moved()

    def _tell(self, arrival: int, news: Decision | Refused) -> None:
        ticket = self._tickets.get(arrival)
        if ticket is not None:
            ticket.news.append(news)
            ticket.wake()
        elif isinstance(news, Decision):
            for grant in news.grants:
                self.core.ledger.release(grant.host_id, grant.lease_id)
