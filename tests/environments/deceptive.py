"""Environments whose fault, or whose soundness, shows only when they are played as a host plays them."""

import asyncio
import random
import time

import numpy as np

from envmesh.env import RewardResult, Task, environment
from tests.environments.judged import HalfReset, KeepsState, Sound, SoundLater


@environment(recovery="replay", isolation="thread", global_random=True)
class DrawsInThreads(Sound):
    """Declares the global generators where no host keeps them apart."""


class SpaceOfNobody(Sound):
    """What it declares as its space is none."""

    observation_space = object()


class GradesWithText(Sound):
    """A grade that looks like a number."""

    def reward(self):
        return "1.0"


class GradesByNumber(Sound):
    """The components of its grade have numbers for names."""

    def reward(self):
        return RewardResult(value=1.0, components={1: 0.5})


class Later:
    """Comes to a number, where it is awaited."""

    def __await__(self):
        yield from ()
        return 1.0


class GradesLater(Sound):
    """Nothing awaits a grade where reset and step are synchronous."""

    def reward(self):
        return Later()


class CannotListTasks(Sound):
    """Its tasks are in a file that is not there."""

    @staticmethod
    def tasks():
        raise FileNotFoundError("tasks.jsonl")


class ListsPlainTasks(Sound):
    """Its tasks are dicts."""

    @staticmethod
    def tasks():
        return [{"id": "a", "prompt": "x"}]


class CannotBeginItsTask(Sound):
    """Raises where there is a task."""

    def reset(self, *, seed=None, options=None):
        if options:
            raise LookupError(options["task"].id)
        return super().reset(seed=seed)

    @staticmethod
    def tasks():
        return [Task(id="unknown")]


class RaisesExamples(Sound):
    """Has no example when it is asked for one."""

    def example_actions(self):
        raise KeyError("no examples")


class RaisesInLoop(SoundLater):
    """Raises in its seventh step, asynchronously."""

    async def step(self, action):
        if self.steps == 6:
            raise LookupError("no such door")
        return await super().step(action)


COMMANDS = []


@environment(recovery="replay", isolation="process")
class Counted(KeepsState):
    """Sound; says in the module how often its code was waited for."""

    def reset(self, *, seed=None, options=None):
        COMMANDS.append("reset")
        return super().reset(seed=seed)

    def step(self, action):
        COMMANDS.append("step")
        return super().step(action)

    def reward(self):
        COMMANDS.append("reward")
        return 1.0

    @staticmethod
    def tasks():
        return [Task(id="a")]


@environment(recovery="replay", isolation="inline", reuse=True)
class ReusedWithRemains(HalfReset):
    """Declares that one instance may be reset again and again, which is not true."""


@environment(recovery="replay", isolation="process", global_random=True)
class DrawsUnseeded(Sound):
    """Draws from the global generators, which a worker seeds, when it is made too."""

    def __init__(self):
        self.luck = random.random()

    def step(self, action):
        self.place += random.random() + np.random.random() + self.luck
        return super().step(action)


SCRATCH = {}


@environment(recovery="replay", isolation="inline")
class NotReentrant(SoundLater):
    """Keeps in the module what it needs after it has waited."""

    async def step(self, action):
        SCRATCH["draw"] = self.chance.random()
        await asyncio.sleep(0)
        self.place += SCRATCH["draw"]
        return await super().step(action)


@environment(recovery="replay", isolation="thread")
class NotThreadSafe(Sound):
    """The same in threads."""

    def step(self, action):
        SCRATCH["draw"] = self.chance.random()
        time.sleep(0.002)
        self.place += SCRATCH["draw"]
        return super().step(action)


@environment(recovery="replay", isolation="inline")
class ClosesForAll(Sound):
    """Its close() ends what the whole process shares, as pygame.quit() does."""

    def reset(self, *, seed=None, options=None):
        SCRATCH["screen"] = "open"
        return super().reset(seed=seed)

    def step(self, action):
        if "screen" not in SCRATCH:
            raise RuntimeError("video system not initialized")
        return super().step(action)

    def close(self):
        SCRATCH.pop("screen", None)


@environment(recovery="replay", isolation="thread")
class ClosesForAllInThreads(ClosesForAll):
    """The same, with neighbours that take their last steps at once with it, before it closes."""

    def step(self, action):
        outcome = super().step(action)
        time.sleep(0.02)
        return outcome


@environment(recovery="replay", isolation="thread")
class SoundInThreads(Sound):
    """Waits, and keeps all that it needs to itself."""

    def step(self, action):
        draw = self.chance.random()
        time.sleep(0.001)
        self.place += draw
        return super().step(action)


@environment(recovery="state", deterministic=False, isolation="inline")
class RollsOthersDice(KeepsState):
    """Sound: nobody can repeat its steps, and its checkpoint has everything."""

    def step(self, action):
        self.place += random.SystemRandom().random()
        return super().step(action)


@environment(recovery="state", isolation="inline")
class ForgetsItsGrade(KeepsState):
    """Leaves out of the checkpoint what only its grade looks at."""

    best = 0.0

    def step(self, action):
        self.best += 1.0
        return super().step(action)

    def reward(self):
        return self.best
