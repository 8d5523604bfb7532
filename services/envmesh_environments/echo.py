"""``envmesh_environments.echo:Echo``: the least an environment can be, for tests and benchmarks.

Its observation is 100 bytes derived from the 50 bytes of the action (twice the action, the first time as it is, the
second time reversed), so that a client can verify each one. An episode has 32 steps.
"""

from __future__ import annotations

from typing import Any

import envmesh.env

ACTION_BYTES = 50
OBSERVATION_BYTES = 100
STEPS = 32


def observation_of(action: bytes) -> bytes:
    """The 100 bytes that answer 50 bytes of action."""
    return action + action[::-1]


@envmesh.env.environment(recovery="replay", isolation="inline")
class Echo:
    """Answers each action with ``observation_of(action)`` and its first byte as reward, 32 times."""

    __slots__ = ("left",)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin; the observation is 100 bytes made of the seed."""
        self.left = STEPS
        return observation_of(((seed or 0) % 2**64).to_bytes(8, "little").ljust(ACTION_BYTES, b"\0")), {}

    def step(self, action: bytes) -> Any:
        """Answer one action of 50 bytes."""
        if type(action) is not bytes or len(action) != ACTION_BYTES:
            raise ValueError(f"an action is {ACTION_BYTES} bytes, got {action!r:.80}")
        self.left -= 1
        return action + action[::-1], float(action[0]), self.left == 0, False, {}
