"""Environments whose outcomes are made of what raises when it is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from envmesh.env import Task, environment


class Trap(Exception):
    """Whatever is done with it raises; so does asking an exception of this kind for its text."""

    def _spring(self, *_: Any) -> NoReturn:
        raise RuntimeError("a trap was sprung")

    __float__ = __bool__ = __len__ = __iter__ = __repr__ = __str__ = _spring


class TrappedMap(Mapping[str, int]):
    """A map that cannot be walked through."""

    def __getitem__(self, key: str) -> int:
        return 0

    def __iter__(self) -> Iterator[str]:
        raise LookupError("a map of nowhere")

    def __len__(self) -> int:
        return 1


OUTCOMES: dict[str, Any] = {
    "reward": ("here", Trap(), False, False, {}),
    "observation": (TrappedMap(), 0.0, False, False, {}),
    "terminated": ("here", 0.0, Trap(), False, {}),
    "truncated": ("here", 0.0, False, np.zeros(2), {}),
    "info": ("here", 0.0, False, False, Trap()),
    "inside info": ("here", 0.0, False, False, {"where": TrappedMap()}),
    "outcome": Trap(),
    "no outcome": [Trap()],
}
"""What the step of this name returns."""


class Panic(BaseException):
    """What extensions written in Rust raise when they panic: no ``Exception``."""


ERRORS: dict[str, type[BaseException]] = {
    "raise": Trap,
    "panic": Panic,
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "cancel": asyncio.CancelledError,
}
"""What the step of this name raises, and a reset or grade where it is told so."""


@environment(recovery="replay", isolation="inline", options=("raising",))
class Treacherous:
    """Returns one of ``OUTCOMES`` or raises one of ``ERRORS``; any other text is answered."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if options:
            raise ERRORS[options["raising"]]
        return "ready", {}

    def step(self, action: str) -> Any:
        if action in ERRORS:
            raise ERRORS[action]
        return OUTCOMES.get(action, (action, 0.0, False, False, {}))

    def reward(self) -> Any:
        return Trap()


@environment(recovery="none", isolation="process", slots=8, episodes_per_worker=8, options=("raising",))
class TreacherousProcess(Treacherous):
    """The same, in a worker process with others."""


@environment(recovery="replay", isolation="thread", options=("raising",))
class TreacherousThread(Treacherous):
    """The same, in a thread."""


@environment(recovery="replay", isolation="inline", options=("raising",))
class TreacherousAsync:
    """The same as coroutines."""

    def __init__(self) -> None:
        self.plain = Treacherous()

    async def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.plain.reset(options=options)

    async def step(self, action: str) -> Any:
        return self.plain.step(action)

    async def reward(self) -> Any:
        return self.plain.reward()


@environment(recovery="replay", isolation="inline")
class Infos:
    """Its infos are as large as it is told, and its observations small."""

    def reset(self, *, seed: int | None = None) -> Any:
        return "ready", {}

    def step(self, action: int) -> Any:
        return "small", 0.0, False, False, {"said": "x" * action}


@environment(recovery="replay", isolation="inline")
class TasksThatRaise(Treacherous):
    """Its tasks cannot be listed."""

    @staticmethod
    def tasks() -> Iterator[Task]:
        yield Task(id="first")
        raise Panic("the second cannot be read")


@environment(recovery="replay", isolation="process")
class TasksThatRaiseInProcess(TasksThatRaise):
    """The same, in a worker process."""


@environment(recovery="replay", isolation="inline")
class TasksThatAreNone(Treacherous):
    """Its tasks are text."""

    @staticmethod
    def tasks() -> list[Any]:
        return [Task(id="first"), "second"]


@environment(recovery="replay", isolation="inline")
class TasksWithoutAForm(Treacherous):
    """A task's prompt cannot be sent."""

    @staticmethod
    def tasks() -> list[Task]:
        return [Task(id="first", prompt=Trap())]


@environment(recovery="replay", isolation="inline", agents=("left", "right"))
class TreacherousPair:
    """Two agents; ``acting`` and the outcomes of the one raise when they are told to."""

    def reset(self, *, seed: int | None = None) -> Any:
        self.due: Any = ("left", "right")
        return {"left": "ready", "right": "ready"}, {}

    @property
    def acting(self) -> Any:
        if self.due is None:
            raise LookupError("nobody knows who is due")
        return self.due

    def step(self, actions: dict[str, str]) -> Any:
        rewards: dict[str, Any] = {"left": 0.0, "right": 0.0}
        if actions["left"] == "reward":
            rewards["left"] = Trap()
        self.due = {"acting": None, "numbers": (1, 2), "no text": ("\ud800",)}.get(actions["left"], self.due)
        return dict(actions), rewards, {}, {}, {}
