"""Environments that end or stop the process that serves them, at one step of one seed, or when they are told to."""

import ctypes
import os
import random
import re
import signal
import time

import envmesh

FATAL_SEED, FATAL_STEP, LENGTH = 13, 6, 20


def spin():
    """Run for ever, in Python."""
    while True:
        pass


def hold():
    """Run for ever, in C, with the interpreter's lock: no other thread of the process can run."""
    re.match(r"(a+)+$", "a" * 64 + "b")


DEEDS = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "spin": spin,
    "hold": hold,
    "kill -9": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


@envmesh.environment(
    recovery="replay", isolation="inline", limits={"step_seconds": 0.5, "reset_seconds": 10.0}
)
class Fatal:
    """Adds up its dice; at ``FATAL_STEP`` of ``FATAL_SEED`` it does ``deed``. Its action is a deed of its own, or a
    time to take (``slow 0.2``)."""

    def __init__(self, deed="", length=LENGTH):
        self.deed = deed
        self.length = length

    def reset(self, *, seed=None, options=None):
        """Begin."""
        self.seed, self.steps, self.total = seed, 0, 0
        self.dice = random.Random(seed)
        return "0", {}

    def step(self, action):
        """Throw."""
        self.steps += 1
        self.total += self.dice.randrange(1000)
        if self.seed == FATAL_SEED and self.steps == FATAL_STEP and self.deed:
            DEEDS[self.deed]()
        if action in DEEDS:
            DEEDS[action]()
        if action.startswith("slow "):
            time.sleep(float(action.removeprefix("slow ")))
        return str(self.total), float(self.total % 7), self.steps == self.length, False, {}


@envmesh.environment(
    recovery="replay",
    isolation="process",
    episodes_per_worker=8,
    limits={"step_seconds": 0.5, "reset_seconds": 10.0},
)
class FatalInWorker(Fatal):
    """The same, in worker processes."""


@envmesh.environment(recovery="replay", isolation="inline", limits={"step_seconds": 30.0})
class Patient(Fatal):
    """The same, with time."""
