"""Players of environments that draw from the global generators (``global_random=True``).

Each episode begins with both generators (``random``'s and numpy's) seeded, before the instance is made and again before
the author's ``reset`` is called: from the episode's seed where there is one, freshly where there is none.
"""

from __future__ import annotations

from envmesh.v1 import environment_pb2 as pb
from envmesh_host.isolation.global_random import GlobalRandom
from envmesh_host.player import AsyncPlayer, Player
from envmesh_host.served import Row, Served

__all__ = ["new_async_player", "new_player"]

Request = pb.ResetRequest | pb.ResumeRequest


class SeededPlayer(Player):
    """A synchronous one. The worker swaps the generators' states between its episodes."""

    __slots__ = ("_random",)

    def __init__(self, served: Served, global_random: GlobalRandom):
        super().__init__(served)
        self._random = global_random

    def reset(self, request: pb.ResetRequest) -> Row:
        """Begin the episode."""
        self._random.seed(_seed_of(request))
        return super().reset(request)


class SeededAsyncPlayer(AsyncPlayer):
    """An asynchronous one. It has its worker to itself: a coroutine may be suspended anywhere, so there is no moment at
    which states could be swapped."""

    __slots__ = ("_random",)

    def __init__(self, served: Served, global_random: GlobalRandom):
        super().__init__(served)
        self._random = global_random

    async def reset(self, request: pb.ResetRequest) -> Row:
        """Begin the episode."""
        self._random.seed(_seed_of(request))
        return await super().reset(request)


def new_player(served: Served, global_random: GlobalRandom | None, request: Request) -> Player:
    """A player for the episode that the request begins or rebuilds."""
    if global_random is None:
        return Player(served)
    global_random.seed(_seed_of(request))
    return SeededPlayer(served, global_random)


def new_async_player(served: Served, global_random: GlobalRandom | None, request: Request) -> AsyncPlayer:
    """The same for an asynchronous environment."""
    if global_random is None:
        return AsyncPlayer(served)
    global_random.seed(_seed_of(request))
    return SeededAsyncPlayer(served, global_random)


def _seed_of(request: Request) -> int | None:
    if isinstance(request, pb.ResumeRequest):
        entries = request.journal.entries
        if not entries or entries[0].WhichOneof("entry") != "reset":
            return None
        reset = entries[0].reset
        return reset.seed if reset.HasField("seed") else None
    return request.seed if request.HasField("seed") else None
