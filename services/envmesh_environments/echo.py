"""The least an environment can be, for tests and benchmarks.

``envmesh_environments.echo:Echo``: its observation is 100 bytes derived from the 50 bytes of the action (twice the
action, the first time as it is, the second time reversed), so that a client can verify each one. An episode has 32
steps. ``envmesh_environments.echo:Frames?size=3000000``: the same with images of so many bytes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

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
    example_actions = (bytes(ACTION_BYTES), bytes(range(ACTION_BYTES)))

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


@envmesh.env.environment(recovery="replay", isolation="inline")
class Frames:
    """Shows arrays of ``size`` bytes, each filled with the last action (0 to 255), 32 times."""

    action_space: ClassVar[dict[str, Any]] = {"type": "integer", "minimum": 0, "maximum": 255}

    def __init__(self, size: int = 3_000_000) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 byte; got {size}")
        self._size = size

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin; the frame is filled with zeros."""
        self._left = STEPS
        return np.zeros(self._size, np.uint8), {}

    def step(self, action: int) -> Any:
        """Show the next frame."""
        self._left -= 1
        return np.full(self._size, action, np.uint8), 0.0, self._left == 0, False, {}
