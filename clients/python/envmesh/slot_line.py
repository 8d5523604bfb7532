"""Those who wait for slots of one environment, and what is said when it takes long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Ask", "Line"]

log = logging.getLogger("envmesh.client")

TOLD_AFTER_SECONDS = 10.0
TOLD_AT_LEAST_EVERY_SECONDS = 600.0
"""The pause between two such lines doubles up to this."""

Slot = TypeVar("Slot")


class Ask:
    """Slots that were asked of the broker: how many are still to come, and the task that waits for them."""

    __slots__ = ("remaining", "task")

    def __init__(self, remaining: int):
        self.remaining = remaining
        self.task: asyncio.Task[None] | None = None


class Line(Generic[Slot]):
    """Those who wait for slots: ordinary ones, or (``relocation``) episodes that lost their host and go first.
    ``asks`` is what was asked of the broker for them, ``traceparent`` the trace of one of them, for the next request
    to be in; ``reason`` says what is known of why they wait."""

    __slots__ = (
        "_environment",
        "_reason",
        "_served",
        "_since",
        "_timer",
        "asks",
        "relocation",
        "traceparent",
        "waiters",
    )

    def __init__(self, environment: str, reason: Callable[[], str], *, relocation: bool):
        self.relocation = relocation
        self.waiters: deque[asyncio.Future[Slot]] = deque()
        self.asks: set[Ask] = set()
        self.traceparent = ""
        self._environment = environment
        self._reason = reason
        self._served = False
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many still wait."""
        return sum(not waiter.done() for waiter in self.waiters)

    @property
    def asked(self) -> int:
        """How many slots have been asked of the broker and not come."""
        return sum(ask.remaining for ask in self.asks)

    def begin(self, ask: Ask, task: asyncio.Task[None]) -> None:
        """``task`` asks for slots, until they have come or nobody waits for them."""
        ask.task = task
        self.asks.add(ask)
        task.add_done_callback(lambda _: self.asks.discard(ask))

    def serve(self, slot: Slot) -> bool:
        """Give the slot to who has waited longest. Returns whether there was one."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                self._served = True
                if self.asks and not self.waiters:
                    # Not now: it may be the ask itself that brings this slot.
                    asyncio.get_running_loop().call_soon(self._call_off_if_empty)
                return True
        return False

    def watch(self) -> None:
        """Somebody waits: say so when no slot comes for ten seconds, and again ever more rarely."""
        if self._timer is None:
            self._served = False
            self._since = asyncio.get_running_loop().time()
            self._tell_after(TOLD_AFTER_SECONDS)

    def left(self, waiter: asyncio.Future[Slot]) -> None:
        """One does not wait any more. With the last of them goes what was asked for them: a place in the broker's
        queue that nobody wants keeps slots from those behind it."""
        with contextlib.suppress(ValueError):
            self.waiters.remove(waiter)
        self._call_off_if_empty()

    def turn_away(self) -> None:
        """Whoever waits hears at once that no slot comes any more."""
        for waiter in self.waiters:
            waiter.cancel()
        self.waiters.clear()

    async def leave_off(self) -> None:
        """Nobody waits here any more. Returns when nothing is asked for any more."""
        tasks = [ask.task for ask in self.asks if ask.task is not None]
        self.turn_away()
        self._call_off_if_empty()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call_off_if_empty(self) -> None:
        if self.waiters:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for ask in self.asks:
            if ask.task is not None:
                ask.task.cancel()
        self.asks.clear()

    def _tell_after(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._tell, seconds)

    def _tell(self, after: float) -> None:
        self._timer = None
        count = self.waiting
        if not count:
            return
        if self._served:
            self.watch()
            return
        waited = asyncio.get_running_loop().time() - self._since
        slots = "a slot" if count == 1 else f"{count:,} slots"
        log.warning(
            "waiting %.0f s for %s of %s: %s", waited, slots, self._environment, self._reason() or "asking"
        )
        self._tell_after(min(2 * after, TOLD_AT_LEAST_EVERY_SECONDS))
