"""Environments that write into the actions they are given, as code for numpy does."""

import numpy as np
from gymnasium import spaces

import envmesh.env


@envmesh.env.environment(isolation="process", episodes_per_worker=1)
class InPlace:
    """Doubles its action where it lies. Only its attribute says what an action is."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Begin."""
        return "", {}

    def step(self, action):
        """Double it."""
        action *= 2
        return action.tolist(), 0.0, False, False, {}


@envmesh.env.environment(isolation="process", episodes_per_worker=1, agents=("left", "right"))
class InPlaceOfTwo:
    """The same, of two agents, each with its own space."""

    action_space = spaces.Dict(left=InPlace.action_space, right=spaces.Box(-1, 1, (3,), np.float32))
    acting = ("left", "right")

    def reset(self, *, seed=None, options=None):
        """Begin."""
        return dict.fromkeys(self.acting, ""), {}

    def step(self, actions):
        """Double each."""
        for action in actions.values():
            action *= 2
        return {agent: action.tolist() for agent, action in actions.items()}, {}, {}, {}, {}
