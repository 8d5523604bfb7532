"""Why hosts were lost: what their witnesses told, kept for some minutes, for clients that wonder about a step."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from envmesh.v1 import placement_pb2
from envmesh_service.at_once import AtOnce
from envmesh_service.clock import Clock

__all__ = ["Losses", "Verdict"]

KEPT_SECONDS = 600.0
KEPT_VERDICTS = 10_000
LATE_SECONDS = 15.0
"""So long after a loss some client may still find out, and ask: a silence is noticed after ten seconds."""
MOST_WAITING = 2_000
"""So many clients of a tenant wait for an explanation at once. Each of its processes asks once for each host that it
lost, and waits two seconds: the loss of ten hosts that two hundred processes play on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A ``LossCause``, and a word for people. ``at`` is when it was told, by the broker's clock."""

    cause: int
    message: str
    at: float


class Losses:
    """What is known of hosts that are not there. ``last_heard`` says when a host was last heard, None: never."""

    def __init__(
        self, clock: Clock, last_heard: Callable[[str], float | None], most_waiting: int = MOST_WAITING
    ) -> None:
        self._clock = clock
        self._last_heard = last_heard
        self._verdicts: dict[str, Verdict] = {}
        self._expected: dict[str, _News] = {}
        advice = "ask once for each host that was lost, and wait for the answer"
        self._waiting = AtOnce(most_waiting, "calls of ExplainLoss that wait", advice)

    def report(self, host_id: str, cause: int, message: str) -> None:
        """A witness tells. The last word counts; that a host is there again takes back what was said before, and so
        does a report of it, once nobody asks about that loss any more."""
        now = self._clock()
        self._verdicts.pop(host_id, None)
        if cause != placement_pb2.LOSS_CAUSE_ALIVE:
            self._verdicts[host_id] = Verdict(cause, message, now)
        for old in [old for old, verdict in self._verdicts.items() if now - verdict.at > KEPT_SECONDS]:
            del self._verdicts[old]
        while len(self._verdicts) > KEPT_VERDICTS:
            del self._verdicts[next(iter(self._verdicts))]
        self._tell(host_id)

    def heard(self, host_id: str) -> None:
        """A host has reported. A container that was started again has the host id of its pod, as the one before it."""
        verdict = self._verdicts.get(host_id)
        if verdict is not None and self._clock() - verdict.at >= LATE_SECONDS:
            del self._verdicts[host_id]
        self._tell(host_id)

    def _tell(self, host_id: str) -> None:
        """Wake those who wait for news of this host, and nobody else: hosts report thousands of times a second."""
        news = self._expected.pop(host_id, None)
        if news is not None:
            news.told.set()

    @contextlib.contextmanager
    def _expecting(self, host_id: str) -> Iterator[asyncio.Event]:
        """What is set at the next news of a host; it is kept while somebody waits for it."""
        news = self._expected.setdefault(host_id, _News())
        news.waiting += 1
        try:
            yield news.told
        finally:
            news.waiting -= 1
            if not news.waiting and self._expected.get(host_id) is news:
                del self._expected[host_id]

    async def explain(self, tenant: str, host_id: str, timeout: float) -> Verdict:
        """Why this host was lost, or that it is heard still. Waits at most ``timeout`` seconds for somebody to know.

        Raises:
            Refusal: RESOURCE_EXHAUSTED QUOTA_EXCEEDED: nobody knows yet, and too many of this tenant wait.
        """
        asked = self._clock()
        while True:
            verdict = self._verdicts.get(host_id)
            if verdict is not None and asked - verdict.at < KEPT_SECONDS:
                return verdict
            heard = self._last_heard(host_id)
            if heard is not None and heard > asked:
                return Verdict(placement_pb2.LOSS_CAUSE_ALIVE, "the broker hears it", asked)
            left = asked + timeout - self._clock()
            if left <= 0:
                return Verdict(placement_pb2.LOSS_CAUSE_UNSPECIFIED, "nobody knows", asked)
            with (
                self._waiting.one(tenant),
                self._expecting(host_id) as told,
                contextlib.suppress(TimeoutError),
            ):
                async with asyncio.timeout(left):
                    await told.wait()


@dataclass(slots=True)
class _News:
    """That something may be known of a host. ``waiting``: so many wait for it."""

    told: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
