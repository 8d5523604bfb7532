"""Environments with one fault each, for ``envmesh check`` to find, and a few without any."""

import ctypes
import os
import random
import sys
import threading
import time

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from envmesh.env import RewardResult, Task, environment


class Sound:
    """Without a fault: a walk on a line, by chance and action, that ends after ten steps. Declares nothing."""

    observation_space = Box(-100.0, 100.0, (2,), np.float64)
    action_space = Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.chance = random.Random(seed)
        self.place, self.steps = 0.0, 0
        return self.seen(), {}

    def step(self, action):
        self.steps += 1
        self.place += (action - 1) * self.chance.random()
        return self.seen(), self.place, False, self.steps == 10, {}

    def seen(self):
        return np.array([self.place, self.steps], np.float64)


@environment(recovery="replay", isolation="inline")
class SoundDeclared(Sound):
    """Declared as what it is."""


@environment(recovery="replay", isolation="inline")
class SoundLater(Sound):
    """Asynchronous."""

    async def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)

    async def step(self, action):
        return super().step(action)


@environment(recovery="replay", isolation="inline")
class NotDeterministic(Sound):
    """Draws what no seed decides."""

    def step(self, action):
        _, reward, *rest = super().step(action)
        self.place += random.SystemRandom().random()
        return (self.seen(), reward, *rest)


@environment(recovery="replay", isolation="process", global_random=False)
class SharesGlobalGenerator(Sound):
    """Seeds and draws from the global generator."""

    def reset(self, *, seed=None, options=None):
        random.seed(seed)
        return super().reset(seed=seed)

    def step(self, action):
        self.place += random.random()
        return super().step(action)


@environment(recovery="replay", isolation="process", global_random=True)
class SharesGlobalGeneratorAndSaysSo(SharesGlobalGenerator):
    """The same, declared."""


PLACES = {}


@environment(recovery="replay", isolation="inline")
class SharesModule(Sound):
    """Keeps its place in the module, under one name for all."""

    def reset(self, *, seed=None, options=None):
        PLACES["steps"] = 0
        return super().reset(seed=seed)

    def step(self, action):
        PLACES["steps"] += 1
        self.place += PLACES["steps"]
        return super().step(action)


@environment(recovery="replay", isolation="inline")
class OrderedByHash(Sound):
    """Takes the first of a set of texts."""

    def step(self, action):
        self.place += list(set("abcdefghij")).index("a")
        return super().step(action)


@environment(recovery="replay", isolation="process")
class OrderedByHashInWorker(OrderedByHash):
    """The same, where all have one hash seed."""


@environment(recovery="replay", isolation="process")
class KnowsItsProcess(Sound):
    """Shows the process's number."""

    def seen(self):
        return np.array([self.place, os.getpid() % 100], np.float64)


class IgnoresSeed(Sound):
    """Takes a seed, and uses another."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


class TakesNoSeed(Sound):
    """Has no seed at all."""

    def reset(self):
        return super().reset(seed=5)


class AlwaysTheSame(Sound):
    """Nothing depends on the seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=5)


class NanReward(Sound):
    """Pays NaN at the fifth step."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return (observation, float("nan") if self.steps == 5 else reward, *rest)


class OutsideItsSpace(Sound):
    """Shows a number beyond its bounds."""

    def seen(self):
        return super().seen() + 99.0


class UnfitInfo(Sound):
    """Puts an object into info."""

    def step(self, action):
        observation, *rest, _ = super().step(action)
        return (observation, *rest, {"self": self})


class NeverEnds(Sound):
    """Goes on."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, False, info


class HalfReset(Sound):
    """Forgets to set one thing back."""

    luck = 0.0

    def reset(self, *, seed=None, options=None):
        self.luck += 1
        return super().reset(seed=seed)

    def seen(self):
        return np.array([self.place, self.luck], np.float64)


class Undeclared(Sound):
    """Says neither what it shows nor what it takes, and raises at most things."""

    observation_space = None
    action_space = None

    def step(self, action):
        if action not in (0, 1, 2):
            raise ValueError(f"{action!r} is not 0, 1 or 2")
        return super().step(action)


class ExitsAtBadAction(Undeclared):
    """Ends the process at a bad action."""

    def step(self, action):
        if isinstance(action, str) and action.startswith("no such"):
            sys.exit("bad action")
        return super().step(action)


HOARD = []


class LeaksMemory(Sound):
    """Keeps a list of everything."""

    def reset(self, *, seed=None, options=None):
        HOARD.append(bytearray(20_000))
        return super().reset(seed=seed)


class LeaksFiles(Sound):
    """Opens a file an episode."""

    def reset(self, *, seed=None, options=None):
        HOARD.append(open(os.devnull))  # noqa: PTH123, SIM115
        return super().reset(seed=seed)


class LeaksThreads(Sound):
    """Begins a thread an episode."""

    def reset(self, *, seed=None, options=None):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return super().reset(seed=seed)


class FillsACache(Sound):
    """Fills a cache, which is no leak."""

    cache = {}  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        self.cache.setdefault(seed, bytearray(50_000))
        return super().reset(seed=seed)


@environment(recovery="replay", isolation="inline")
class BlocksInline(Sound):
    """Waits in the event loop."""

    def step(self, action):
        time.sleep(0.003)
        return super().step(action)


@environment(recovery="replay", isolation="inline")
class BlocksInlineLater(SoundLater):
    """Waits in the event loop, asynchronously written."""

    async def step(self, action):
        time.sleep(0.003)  # noqa: ASYNC251
        return await super().step(action)


@environment(recovery="replay", isolation="thread")
class ComputesInThread(Sound):
    """Computes, where threads only take turns."""

    def step(self, action):
        until = time.thread_time() + 0.003
        while time.thread_time() < until:
            pass
        return super().step(action)


@environment(limits={"step_seconds": 0.02})
class NearItsLimit(Sound):
    """Takes most of the time that it allows itself."""

    def step(self, action):
        time.sleep(0.015)
        return super().step(action)


class RaisesLater(Sound):
    """Raises in its seventh step."""

    def step(self, action):
        if self.steps == 6:
            raise LookupError("no such door")
        return super().step(action)


class ExitsLater(Sound):
    """Calls sys.exit in its seventh step."""

    def step(self, action):
        if self.steps == 6:
            sys.exit("enough")
        return super().step(action)


class CrashesLater(Sound):
    """Crashes the process in its seventh step."""

    def step(self, action):
        if self.steps == 6:
            ctypes.string_at(0)
        return super().step(action)


class HangsLater(Sound):
    """Waits for ever in its seventh step."""

    def step(self, action):
        if self.steps == 6:
            threading.Event().wait()
        return super().step(action)


class CrashesInTheLongRun(Sound):
    """Crashes the process at its thirtieth instance."""

    made = 0

    def __init__(self):
        CrashesInTheLongRun.made += 1
        if CrashesInTheLongRun.made == 30:
            os.abort()


class ReturnsGarbage(Sound):
    """Returns three things."""

    def step(self, action):
        return super().step(action)[:3]


class ShowsObjects(Sound):
    """Shows an object."""

    observation_space = None

    def seen(self):
        return object()


class CannotBeMade(Sound):
    """Raises when it is made."""

    def __init__(self):
        raise OSError("no display")


class PrintsMuch(Sound):
    """Prints a page a step."""

    def step(self, action):
        print("x" * 10_000)
        return super().step(action)


@environment(recovery="state", isolation="inline")
class KeepsState(Sound):
    """Can be checkpointed."""

    def checkpoint(self):
        version, numbers, gauss = self.chance.getstate()
        return {"place": self.place, "steps": self.steps, "chance": [version, list(numbers), gauss]}

    def restore(self, checkpoint):
        self.place, self.steps = checkpoint["place"], checkpoint["steps"]
        version, numbers, gauss = checkpoint["chance"]
        self.chance = random.Random()
        self.chance.setstate((version, tuple(numbers), gauss))


@environment(recovery="state", isolation="inline")
class ForgetsItsGenerator(KeepsState):
    """Leaves the generator out of the checkpoint."""

    def checkpoint(self):
        return {"place": self.place, "steps": self.steps}

    def restore(self, checkpoint):
        self.place, self.steps = checkpoint["place"], checkpoint["steps"]
        self.chance = random.Random(0)


@environment(recovery="state", isolation="inline")
class DisturbedByItsCheckpoint(KeepsState):
    """Draws a number when it is checkpointed."""

    def checkpoint(self):
        self.chance.random()
        return super().checkpoint()


class Graded(Sound):
    """Grades as it should, and has tasks."""

    def reward(self):
        return RewardResult(value=self.place, components={"place": self.place})

    @staticmethod
    def tasks():
        return [Task(id="a"), Task(id="b")]


class GradingChangesIt(Sound):
    """Moves when it is graded."""

    def reward(self):
        self.place += 1
        return self.place


class GradesNan(Sound):
    """Grades with NaN."""

    def reward(self):
        return RewardResult(value=1.0, components={"part": float("nan")})


class RepeatsATask(Sound):
    """Lists a task twice."""

    @staticmethod
    def tasks():
        return [Task(id="a"), Task(id="a")]


@environment(recovery="replay", isolation="inline", agents=("left", "right"))
class Pair:
    """Two agents in turns; the other's payment waits for its turn."""

    action_space = Dict(left=Discrete(2), right=Discrete(2))
    observation_space = Dict(left=Discrete(100), right=Discrete(100))
    names = ("left", "right")

    def reset(self, *, seed=None, options=None):
        self.chance, self.total, self.steps = random.Random(seed), 0, 0
        self.acting = (self.names[0],)
        return {self.names[0]: 0}, {}

    def step(self, actions):
        (agent,) = self.acting
        self.total += actions[agent] + self.chance.randrange(2)
        self.steps += 1
        if self.steps == 6:
            self.acting = ()
            done = dict.fromkeys(self.names, True)
            return dict.fromkeys(self.names, self.total), dict.fromkeys(self.names, 1.0), done, {}, {}
        self.acting = (self.names[self.steps % 2],)
        return {self.acting[0]: self.total}, {self.acting[0]: 0.5}, {}, {}, {}


@environment(recovery="replay", isolation="inline", agents=("left",))
class PairOfStrangers(Pair):
    """One of the agents is not declared."""
