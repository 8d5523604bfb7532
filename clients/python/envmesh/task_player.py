"""Who plays an episode of ``rollouts`` with an asynchronous policy: user code that waits, in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from envmesh.cancellation import was_cancelled
from envmesh.outcome import AGENTS, make_outcome
from envmesh.players import TRUNCATED, PolicyPlayer
from envmesh.policies import Act

__all__ = ["TaskPlayer"]


class TaskPlayer(PolicyPlayer):
    """Plays one episode with an asynchronous policy, in a task of its own."""

    __slots__ = ("_observation", "task")

    def prepare(self) -> None:
        """Begin the policy's task, which waits for the first observation."""
        self.act = self._hand_over
        self._observation: asyncio.Queue[Any] = asyncio.Queue(1)
        self.task: asyncio.Task[None] | None = self.run.mesh.spawn(
            self._think(self.policy), name=f"envmesh-episode-{self.episode_id.hex()[:8]}"
        )

    def go_on(self, payload: bytes, flags: int) -> None:
        """Wake the policy's task."""
        index = self.index
        self.let_think()
        self.flags = flags
        limit = self.run.max_steps
        if flags & 3 or (limit is not None and index >= limit):
            self._over(flags if flags & 3 else flags | TRUNCATED)
        elif flags & AGENTS:
            outcome = make_outcome(index, payload, 0.0, flags, 0, b"", None)
            self._hand_over({a: outcome.observation.get(a) for a in outcome.acting})  # type: ignore[attr-defined]
        else:
            try:
                self._hand_over(self.decode(payload))
            except Exception as error:  # an observation that is none of its space
                self._policy_failed(error)

    def _hand_over(self, observation: Any) -> None:
        self._observation.put_nowait(observation)

    async def _think(self, policy: Any) -> None:
        agents = bool(self.spec.agents)
        try:
            while True:
                observation = await self._observation.get()
                action = await (_act_for_agents(policy, observation) if agents else policy(observation))
                if isinstance(action, Act):
                    action = self.annotate(action)
                self.play(self.encode(action))
        except BaseException as error:  # the policy's own
            if was_cancelled(error):
                raise
            self._policy_failed(error)

    def _unbind(self) -> None:
        super()._unbind()
        if self.task is not None:
            self.task.cancel()


async def _act_for_agents(policy: Any, observations: dict[str, Any]) -> dict[str, Any]:
    actions: dict[str, Any] = {}
    for agent, observation in observations.items():
        action = (policy[agent] if isinstance(policy, Mapping) else policy)(observation)
        actions[agent] = await action if asyncio.iscoroutine(action) else action
    return actions
