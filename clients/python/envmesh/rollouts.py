"""Thousands of episodes as a stream: ``async for trajectory in mesh.rollouts(environment, policy, ...)``."""

from __future__ import annotations

from array import array
from types import TracebackType
from typing import Any, Self

from envmesh.groups import Group
from envmesh.rollout_run import RolloutRun

__all__ = ["Group", "Rollouts"]


class Rollouts:
    """An asynchronous iterator over trajectories, as they finish; over whole ``Group``s where ``group_size`` > 1.

    ``episodes`` is how many are asked for (groups count their members); None goes on for ever, or once through
    ``tasks``. Every episode asked for is yielded, a failed one with ``.failure`` set; ``retries`` runs that many new
    ones first where the failure is retryable. ``concurrency`` bounds the episodes at once; a consumer that is slower
    than the mesh slows the start of new episodes. ``group_size`` episodes share task and seed, ``spares`` more are
    started with them, and the stragglers are cancelled once a group is full. ``seeds`` gives the seeds; else they are
    drawn from one sequence that ``seed`` begins, as is one that is None. Where ``tasks`` or ``seeds`` are too few for
    ``episodes``, all that they begin is yielded, and then InvalidRequest raised. ``grade`` asks for the environment's
    ``reward()`` at each end. ``max_steps`` closes longer episodes as truncated. ``record`` is a file (.jsonl or
    .parquet) that gets every trajectory. ``progress`` draws a bar on standard error, or where that is no terminal
    writes a line every five seconds. ``timeout`` bounds the wait for a slot, in seconds. ``measure`` notes each step's
    time in ``step_seconds``.

    Use it in ``async for`` alone, or in ``async with`` to be sure that leaving early closes at once what is open.
    """

    def __init__(self, run: RolloutRun):
        self._run = run

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __anext__(self) -> Any:
        for result in await self._run.take(1):
            return result
        raise StopAsyncIteration

    async def several(self, most: int) -> list[Any]:
        """The next result, and those that are there too, up to ``most``; none once everything was fetched."""
        return await self._run.take(most)

    def __del__(self) -> None:
        self._run.close_soon()

    async def aclose(self) -> None:
        """Close what is open and give the slots back. Leaving the loop does it too, a moment later."""
        self._run.close()

    @property
    def live(self) -> set[Any]:
        """What is being played now, one for each episode."""
        return self._run.live

    @property
    def peak(self) -> int:
        """How many episodes were played at once at most."""
        return self._run.peak

    @property
    def step_seconds(self) -> array[float]:
        """With ``measure``: how long each step took, from its action to its outcome."""
        return self._run.step_seconds

    @property
    def reset_seconds(self) -> array[float]:
        """How long each reset took."""
        return self._run.reset_seconds
