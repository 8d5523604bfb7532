"""Environments whose faults the monitoring must show: each step does what it is told."""

import os

from envmesh.env import RewardResult, environment


@environment(
    recovery="none",
    episodes_per_worker=4,
    options=("fail",),
    limits={"reset_seconds": 10.0, "step_seconds": 5.0},
)
class Faulty:
    """In a worker process; an action may crash it, raise, or give a reward that is no number."""

    def reset(self, *, seed=None, options=None):
        if options and options.get("fail"):
            raise LookupError("no such level")
        self.left = 3
        return "go", {}

    def step(self, action):
        self.left -= 1
        if action == "crash":
            os._exit(7)
        if action == "raise":
            raise LookupError("no such door")
        reward = float("nan") if action == "nan" else float(len(action))
        return action, reward, self.left == 0, False, {}


@environment(recovery="replay", isolation="inline")
class Graded:
    """Gives every episode the same return, and grades it; every other grade is invalid."""

    graded = 0

    def reset(self, *, seed=None, options=None):
        self.left = 4
        return "go", {}

    def step(self, action):
        self.left -= 1
        return action, 0.25, self.left == 0, False, {}

    def reward(self):
        Graded.graded += 1
        parts = {"format": 0.5, "answer": 0.5}
        return RewardResult(value=1.0, components=parts, valid=bool(Graded.graded % 2))


@environment(recovery="state", isolation="inline")
class Kept:
    """Saves and restores what it is."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return "go", {}

    def step(self, action):
        self.steps += 1
        return str(self.steps), float(self.steps), self.steps == 8, False, {}

    def checkpoint(self):
        return self.steps

    def restore(self, state):
        self.steps = state


@environment(recovery="replay", limits={"reset_seconds": 10.0, "step_seconds": 5.0})
class Drifting:
    """Says that it is deterministic, and is not; ``crash`` ends its worker, but only the first that meets it."""

    def reset(self, *, seed=None, options=None):
        return os.urandom(4).hex(), {}

    def step(self, action):
        if action.startswith("crash "):
            try:
                os.close(os.open(action[6:], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return "spared", 0.0, True, False, {}
            os._exit(7)
        return os.urandom(4).hex(), 0.0, False, False, {}
