"""An agent that repairs a program: text, rewards that vary, now and then an exception, words that look like markup."""

import random
import time

from envmesh.env import Isolation, Recovery, environment

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
COMMANDS = ("sed -i 's/41/42/' main.py", "pytest -q", "cat main.py", "git diff --stat", f"echo '{HOSTILE}'")


@environment(name="repair", isolation=Isolation.THREAD, recovery=Recovery.NONE, slots=48)
class Repair:
    def __init__(self, slow: float = 0.01, raises: float = 0.004):
        self.slow, self.raises = float(slow), float(raises)

    def reset(self, *, seed=None, options=None):
        self.random = random.Random(seed)
        return "Test failed: expected 42, got 41", {}

    def step(self, action):
        chance = self.random
        time.sleep(chance.expovariate(1 / self.slow))
        if chance.random() < self.raises:
            raise RuntimeError(f"disk quota exceeded in /workspace {HOSTILE}")
        done = chance.random() < 0.08
        observed = f"$ {action}\nran 12 tests, {chance.randrange(4)} failed"
        return observed, float(done and chance.random() < 0.6), done, False, {}


def act(observation: object) -> str:
    """A policy that tries this and that."""
    return random.choice(COMMANDS)


def act_politely(observation: object) -> str:
    """The same, for pictures."""
    return random.choice(COMMANDS[:-1])
