"""An environment that starts a process of its own, as those with a browser or a game server do."""

import subprocess

from envmesh.env import environment


@environment(recovery="replay", isolation="inline")
class Accompanied:
    """Observes the id of its process, which holds the host's output open and outlives it."""

    def __init__(self):
        self.companion = subprocess.Popen(["sleep", "100"])

    def reset(self, *, seed=None, options=None):
        self.left = 3
        return self.left, {"companion": self.companion.pid}

    def step(self, action):
        self.left -= 1
        return self.left, 1.0, self.left == 0, False, {"companion": self.companion.pid}
