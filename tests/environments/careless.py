"""Environments that raise where nobody plays them yet: while a host looks at what it serves."""

import sys

import envmesh.env


@envmesh.env.environment(isolation="process")
class RaisesWhenClosed:
    """Cannot be closed."""

    def reset(self, *, seed=None, options=None):
        """Begin."""
        return "", {}

    def step(self, action):
        """Repeat the action."""
        return action, 0.0, False, False, {}

    def close(self):
        """Never."""
        raise RuntimeError("the browser is gone")


class ExitsWhenMade(RaisesWhenClosed):
    """Ends the program when it is made."""

    def __init__(self):
        sys.exit("no licence")


class RaisesWhenAsked(RaisesWhenClosed):
    """Does not know its actions yet."""

    @property
    def action_space(self):
        """Never."""
        raise LookupError("not yet connected")
