"""The catalog: which environments there are, what a name means now, and which of them take no new episode (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from envmesh_broker import names
from envmesh_broker.hosts import Host
from envmesh_broker.ledger import Ledger

__all__ = ["Catalog", "DeclaredPool"]

MOST_MEANINGS = 10_000
"""Names come from clients, so what they mean is kept for so many only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredPool:
    """A pool that may have no host now: what is asked of it waits, and is demand."""

    name: str
    environments: tuple[str, ...]
    slots: int = 0
    """Of one host; 0: not known."""
    max_hosts: int = 0
    retiring: bool = False
    """It takes episodes on the move, and no new ones."""


class Catalog:
    """What hosts serve and pools declare, together."""

    def __init__(self, ledger: Ledger, pools: Iterable[DeclaredPool]) -> None:
        self._ledger = ledger
        self._meanings: dict[str, str | None] = {}
        self._most: dict[tuple[str, bool], int | None] = {}
        self._open: set[str] = set()
        self._seen = -1
        self.replace(pools)

    def replace(self, pools: Iterable[DeclaredPool]) -> None:
        """These are the declared pools from now on."""
        self.pools = {pool.name: pool for pool in pools}
        retiring = [pool for pool in self.pools.values() if pool.retiring]
        self._declared = {
            key for pool in self.pools.values() if not pool.retiring for key in pool.environments
        }
        self._retiring = {key: pool.name for pool in retiring for key in pool.environments}
        self._ledger.retire(frozenset(pool.name for pool in retiring))

    def look(self) -> bool:
        """Take up what hosts serve now. Returns whether names may mean something else than at the last look."""
        if self._seen == self._ledger.catalog_version:
            return False
        self._seen = self._ledger.catalog_version
        self._meanings.clear()
        self._most.clear()
        self._open = self._ledger.staying() | self._declared
        return True

    def meaning(self, environment: str) -> str | None:
        """The name@version that a name means now; None: nobody has served it, and no pool declares it."""
        if environment not in self._meanings:
            if len(self._meanings) > MOST_MEANINGS:
                self._meanings.clear()
            served, remembered = self._ledger.served(), self._ledger.remembered()
            choices = self._open, served, self._retiring.keys(), remembered
            self._meanings[environment] = names.resolve(environment, *choices)
        return self._meanings[environment]

    def retired_with(self, key: str) -> str | None:
        """The retiring pool that alone serves a name@version; None: it takes new episodes, or nobody serves it."""
        return None if key in self._open else self._retiring.get(key)

    def others(self, key: str) -> list[str]:
        """The versions of the same environment that take new episodes, sorted."""
        bare = names.split(key)[0]
        return sorted(other for other in self._open if names.split(other)[0] == bare)

    def known(self) -> list[str]:
        """Every environment that takes new episodes or has a host, sorted."""
        return sorted(self._ledger.served() | self._declared)

    def most(self, key: str, relocation: bool = False) -> int | None:
        """The most slots that a name@version can ever have at once, for what is new or for episodes on the move; None:
        nobody can tell."""
        if (key, relocation) not in self._most:
            self._most[key, relocation] = self._count_most(key, relocation)
        return self._most[key, relocation]

    def _count_most(self, key: str, relocation: bool) -> int | None:
        pools: dict[str, list[Host]] = {}
        for record in self._ledger.serving(key):
            if relocation or not record.retiring:
                pools.setdefault(record.host.pool, []).append(record.host)
        declared = {
            pool.name: pool
            for pool in self.pools.values()
            if key in pool.environments and (relocation or not pool.retiring)
        }
        if not pools and not declared:
            return None
        total = 0
        for name in pools.keys() | declared.keys():
            hosts, pool = pools.get(name, []), declared.get(name)
            sizes = [min(h.slots, h.environment_slots.get(key, h.slots)) for h in hosts]
            limits = [h.max_hosts for h in hosts if h.max_hosts] + [pool.max_hosts if pool is not None else 0]
            size = max([*sizes, pool.slots if pool is not None else 0])
            if pool is not None and (not max(limits) or not size):
                return None
            total += max(sum(sizes), max(limits) * size)
        return total
