"""An environment that cannot be cancelled, until a neighbour lets it."""

import asyncio

import envmesh.env

RELENT = asyncio.Event()


@envmesh.env.environment(isolation="inline")
class Stubborn:
    """Refuses to end, or lets all others end."""

    async def reset(self, *, seed=None, options=None):
        """Begin."""
        RELENT.clear()
        return "", {}

    async def step(self, action):
        """Do what the action says."""
        if action == "relent":
            RELENT.set()
        while action == "refuse" and not RELENT.is_set():
            try:
                await RELENT.wait()
            except asyncio.CancelledError:
                pass
        return action, 0.0, False, False, {}
