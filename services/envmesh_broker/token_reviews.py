"""Tokens of the cluster's ServiceAccounts, judged by the API server and remembered for at most five minutes.

What is remembered is bounded, and a token under review is asked about once, however many calls show it. A token that
was good is reviewed again while it lasts, so that one whose ServiceAccount or pod is gone is revoked; one that has come
to its own end is forgotten, for its pod has a newer one. What is refused is remembered elsewhere: strangers push no
good token out, whose end would then be told to nobody.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from weakref import WeakValueDictionary

from envmesh.errors import Refusal
from envmesh_service.clock import Clock
from envmesh_service.credentials import credential_id, token_digest
from envmesh_service.kubernetes_api import ReviewedToken

__all__ = ["Account", "TokenReviews"]

_log = logging.getLogger(__name__)

MOST_REMEMBERED = 10_000
MOST_REFUSED = 1_000
REFUSED_SECONDS = 10.0
"""How long a refused token is not asked about again."""
RETRY_SECONDS = 5.0
"""How long to wait when the API server could not be asked about a token that counts."""
MOST_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Account:
    """The ServiceAccount that a token is of."""

    namespace: str
    name: str
    credential: bytes


@dataclass(slots=True)
class _Verdict:
    account: Account | None
    token: str
    """Kept only while it counts, to be reviewed again; never written anywhere."""
    fresh_until: float
    """On the monotonic clock: counts without asking until then."""
    expires_at: float
    """On the wall clock: the token's own end."""


class TokenReviews:
    """Asks the API server, through ``ask``: what a token is of, or None. ``keep`` is in seconds, at most 300; of
    ``most`` good tokens the answer is remembered."""

    def __init__(
        self,
        ask: Callable[[str], Awaitable[ReviewedToken | None]],
        *,
        keep: float,
        clock: Clock,
        wall: Clock,
        most: int = MOST_REMEMBERED,
    ) -> None:
        self._most = most
        self._ask, self._keep, self._clock, self._wall = ask, min(keep, 300.0), clock, wall
        self._verdicts: dict[bytes, _Verdict] = {}
        self._refused: dict[bytes, _Verdict] = {}
        self._gone: list[Account] = []
        """Whose token no longer counts, until somebody asks."""
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Semaphore(MOST_AT_ONCE)

    async def account(self, token: str) -> Account | None:
        """Whose token it is; None: nobody's.

        Raises:
            Refusal: UNAVAILABLE UNREACHABLE: the API server does not answer, and nothing is remembered.
        """
        digest = token_digest(token)
        verdict = self._known(digest)
        if verdict is None or not self._counts(verdict):
            verdict = await self._reviewed(digest, token)
        return verdict.account

    def accounts(self) -> Iterator[Account]:
        """Whose tokens count now."""
        return (verdict.account for verdict in self._verdicts.values() if verdict.account is not None)

    async def review_again(self) -> list[Account]:
        """Have what is no longer fresh reviewed, what has waited longest first, and so many that all have their turn
        within half the time that a verdict is kept, where this is called every half second. Returns those whose token
        no longer counts though its own end has not come, whoever showed it last."""
        now = self._clock()
        stale = sorted(
            (v.fresh_until, digest) for digest, v in self._verdicts.items() if now >= v.fresh_until
        )
        stale = stale[: max(MOST_AT_ONCE, math.ceil(len(self._verdicts) / self._keep))]
        for first in range(0, len(stale), MOST_AT_ONCE):  # newcomers wait for a few of these, never for all
            async with asyncio.TaskGroup() as tasks:
                reviews = [
                    tasks.create_task(self._review_again(digest), name="token-review")
                    for _, digest in stale[first : first + MOST_AT_ONCE]
                ]
            if not all(review.result() for review in reviews):
                break  # the API server is away: the rest is asked about later
        gone, self._gone = self._gone, []
        return gone

    async def _review_again(self, digest: bytes) -> bool:
        """Have one reviewed. False: the API server does not answer."""
        verdict = self._verdicts.get(digest)
        if verdict is None:  # others came while the ones before were asked about
            return True
        if self._wall() >= verdict.expires_at:
            del self._verdicts[digest]
            return True
        try:
            await self._reviewed(digest, verdict.token)
        except Refusal:
            verdict.fresh_until = self._clock() + RETRY_SECONDS
            return False
        return True

    def _known(self, digest: bytes) -> _Verdict | None:
        return self._verdicts.get(digest) or self._refused.get(digest)

    def _counts(self, verdict: _Verdict) -> bool:
        return self._clock() < verdict.fresh_until and (
            verdict.account is None or self._wall() < verdict.expires_at
        )

    async def _reviewed(self, digest: bytes, token: str) -> _Verdict:
        lock = self._locks.get(digest)
        if lock is None:
            lock = self._locks[digest] = asyncio.Lock()
        async with lock:
            known = self._known(digest)
            if known is None or not self._counts(known):
                known = await self._judged(digest, token)
                self._remember(digest, known)
            return known

    async def _judged(self, digest: bytes, token: str) -> _Verdict:
        async with self._room:
            try:
                reviewed = await self._ask(token)
            except OSError as error:
                _log.warning("a token could not be reviewed", extra={"error": str(error)})
                raise Refusal(
                    "the API server, which judges this token, does not answer; try again",
                    reason="UNREACHABLE",
                    retry_after=1.0,
                ) from None
        now = self._clock()
        if reviewed is None:
            return _Verdict(None, "", now + REFUSED_SECONDS, 0.0)
        account = Account(reviewed.namespace, reviewed.name, credential_id(digest))
        return _Verdict(account, token, now + self._keep, reviewed.expires_at)

    def _remember(self, digest: bytes, verdict: _Verdict) -> None:
        if verdict.account is None:
            kept, most = self._refused, MOST_REFUSED
            before = self._verdicts.pop(digest, None)
            if before is not None and before.account is not None and self._wall() < before.expires_at:
                self._gone.append(before.account)
        else:
            kept, most = self._verdicts, self._most
            self._refused.pop(digest, None)
        if digest not in kept and len(kept) >= most:
            kept.pop(next(iter(kept)))
        kept[digest] = verdict
