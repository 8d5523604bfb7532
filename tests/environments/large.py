"""An environment of large values."""


class Large:
    """Answers each action of bytes with twice as many."""

    def reset(self, *, seed=None, options=None):
        """Begin."""
        return b"", {}

    def step(self, action):
        """Twice the action."""
        return action + action, 0.0, False, False, {}
