"""A batched policy: asked for everything that is ready after each frame."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from envmesh.cancellation import was_cancelled
from envmesh.policies import Act

if TYPE_CHECKING:
    from envmesh.players import PolicyPlayer
    from envmesh.rollout_run import RolloutRun

__all__ = ["BatchPlayers"]


class BatchPlayers:
    """Asks a batched policy for everything that is ready after each frame."""

    def __init__(self, run: RolloutRun):
        self._run = run
        self._ready: list[tuple[PolicyPlayer, bytes]] = []
        self._asking = False
        self._scheduled = False

    def add(self, player: PolicyPlayer, payload: bytes) -> None:
        """This player's next action is wanted."""
        self._ready.append((player, payload))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._ask)

    def _ask(self) -> None:
        self._scheduled = False
        if self._asking:
            return
        if self._run.kind.asynchronous:
            self._asking = True
            self._run.mesh.spawn(self._ask_until_idle(), name="envmesh-batched-policy")
            return
        ready, self._ready = self._ready, []
        try:
            self._play(ready, self._run.policy([player.decode(payload) for player, payload in ready]))
        except BaseException as error:  # the policy's own
            self._run.fail(error)

    async def _ask_until_idle(self) -> None:
        try:
            while self._ready:
                ready, self._ready = self._ready, []
                self._play(ready, await self._run.policy([p.decode(payload) for p, payload in ready]))
        except BaseException as error:  # the policy's own
            if was_cancelled(error):
                raise
            self._run.fail(error)
        finally:
            self._asking = False

    def _play(self, ready: list[tuple[PolicyPlayer, bytes]], actions: Any) -> None:
        if len(actions) != len(ready):
            raise ValueError(
                f"the batched policy returned {len(actions)} actions for {len(ready)} observations"
            )
        for (player, _), action in zip(ready, actions, strict=True):
            if player in self._run.live:
                player.play(player.encode(player.annotate(action) if isinstance(action, Act) else action))
