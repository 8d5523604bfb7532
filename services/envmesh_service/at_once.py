"""How much of one thing each tenant has going at once, with a bound, so that none takes the memory of all (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from envmesh.errors import Refusal

__all__ = ["AtOnce"]

_RETRY_SECONDS = 1.0


class AtOnce:
    """Counts what is going on, by tenant. ``what`` names it, in the plural; ``advice`` is what would be right."""

    def __init__(self, most: int, what: str, advice: str) -> None:
        self._most, self._what, self._advice = most, what, advice
        self._going: Counter[str] = Counter()

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """One more of this tenant for as long as the block lasts, however it ends.

        Raises:
            Refusal: RESOURCE_EXHAUSTED QUOTA_EXCEEDED: the tenant has as many as it may.
        """
        if self._going[tenant] >= self._most:
            raise Refusal(
                f"tenant {tenant!r} has {self._most:,} {self._what} already, and at most so many at once are right: "
                f"{self._advice}",
                reason="QUOTA_EXCEEDED",
                retry_after=_RETRY_SECONDS,
            )
        self._going[tenant] += 1
        try:
            yield
        finally:
            self._going[tenant] -= 1
            if not self._going[tenant]:
                del self._going[tenant]
