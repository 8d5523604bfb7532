"""Environments that do what an environment must not, when they are told to."""

import asyncio
import ctypes
import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

import envmesh.env


def misbehave(action):
    """Do what the action says; what it does not know, it lets pass."""
    match action:
        case "sleep":
            time.sleep(3600)
        case "spin":
            while True:
                pass
        case "raise":
            raise LookupError("no such door")
        case "exit":
            sys.exit("enough")
        case "os._exit":
            os._exit(3)
        case "print":
            for _ in range(200):
                print("x" * 100_000)
                print("y" * 100, file=sys.stderr)
        case "write":
            for _ in range(400):
                os.write(1, b"z" * 65_536)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "kill -9":
            os.kill(os.getpid(), signal.SIGKILL)
        case "allocate":
            hoard = []
            while True:
                hoard.append(bytearray(16 << 20))
        case "close files":
            os.closerange(3, 256)
        case "write garbage":
            for file in range(3, 64):
                try:
                    os.write(file, b"\xff" * 64)
                except OSError:
                    pass
        case "leave a child":
            return str(subprocess.Popen(["sleep", "3600"], start_new_session=True).pid)
        case "fork":
            if os.fork() == 0:
                time.sleep(3600)
        case "die soon":
            threading.Timer(0.02, os._exit, (4,)).start()
    return action


RETURNED: dict[str, Any] = {
    "garbage": "garbage",
    "nothing": None,
    "nan": ("x", float("nan"), False, False, {}),
    "object": (object(), 0.0, False, False, {}),
    "large": (b"x" * 1_000_000, 0.0, False, False, {}),
}


@envmesh.env.environment(limits={"reset_seconds": 5.0, "step_seconds": 0.4, "reward_seconds": 5.0})
class Misbehaving:
    """Undeclared but for its limits: one episode a worker, class NONE."""

    def reset(self, *, seed=None, options=None):
        """Begin; the observation is the process."""
        self.steps = 0
        return str(os.getpid()), {}

    def step(self, action):
        """Do what the action says; the observation is the action."""
        self.steps += 1
        shown = misbehave(action)
        if action in RETURNED:
            return RETURNED[action]
        return shown, float(self.steps), action == "end", False, {}

    def close(self):
        """Leave a trace, where asked to."""


@envmesh.env.environment(
    recovery="none", episodes_per_worker=8, limits={"reset_seconds": 5.0, "step_seconds": 0.4}
)
class MisbehavingTogether(Misbehaving):
    """Eight episodes a worker."""


@envmesh.env.environment(
    isolation="thread", limits={"reset_seconds": 5.0, "step_seconds": 0.4, "reward_seconds": 5.0}
)
class MisbehavingInThread(Misbehaving):
    """One thread an episode that is busy."""


@functools.cache
def meeting(loop, count):
    """Where so many episodes of a loop wait for one another."""
    return asyncio.Barrier(count)


@envmesh.env.environment(episodes_per_worker=64, limits={"reset_seconds": 5.0, "step_seconds": 0.4})
class MisbehavingLater:
    """Asynchronous: many episodes side by side in a worker."""

    async def reset(self, *, seed=None, options=None):
        """Begin; the observation is the process."""
        self.steps = 0
        return str(os.getpid()), {}

    async def step(self, action):
        """Wait or hang as told; everything else as its neighbour does it."""
        self.steps += 1
        if action == "wait":
            await asyncio.sleep(0.05)
        elif action.startswith("meet "):
            await meeting(asyncio.get_running_loop(), int(action.removeprefix("meet "))).wait()
        elif action == "wait long":
            await asyncio.sleep(3600)
        elif action == "refuse to end":
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass
        else:
            misbehave(action)
        return action, float(self.steps), action == "end", False, {}


@envmesh.env.environment(isolation="inline", limits={"reset_seconds": 5.0, "step_seconds": 0.4})
class MisbehavingInline(MisbehavingLater):
    """In the host's own loop."""


class RaisesWhenMade:
    """Cannot be made."""

    def __init__(self):
        raise OSError("no display")

    def reset(self, *, seed=None, options=None):
        """Never."""

    def step(self, action):
        """Never."""


class DiesWhenMade(RaisesWhenMade):
    """Ends its process when it is made."""

    def __init__(self):
        ctypes.string_at(0)


@envmesh.env.environment(limits={"reset_seconds": 0.6})
class HangsWhenMade(RaisesWhenMade):
    """Is never made."""

    def __init__(self):
        time.sleep(3600)


class DiesAtReset:
    """Is made, and never begins."""

    def reset(self, *, seed=None, options=None):
        """End the process."""
        os._exit(9)

    def step(self, action):
        """Never."""


@envmesh.env.environment(recovery="replay", episodes_per_worker=64, global_random=True)
class Gambler:
    """Draws from both global generators, in every way they can be drawn from, also when it is made."""

    def __init__(self):
        self.luck = random.random() + np.random.random()

    def reset(self, *, seed=None, options=None):
        """Draw."""
        self.left = 12
        return [self.luck, random.random(), np.random.random()], {}

    def step(self, action):
        """Draw; an odd number of normals leaves one in each generator."""
        self.left -= 1
        drawn = [random.gauss(0, 1), float(np.random.normal()), random.random(), random.randrange(100)]
        return drawn, 0.0, self.left == 0, False, {}


@envmesh.env.environment(recovery="replay", episodes_per_worker=64, global_random=True)
class GamblerLater(Gambler):
    """The same, asynchronous."""

    async def step(self, action):
        """Draw, wait, draw."""
        first = random.random()
        await asyncio.sleep(0.001)
        return [first, *super().step(action)[0]], 0.0, self.left == 0, False, {}
