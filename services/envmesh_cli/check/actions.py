"""Actions to try an environment with: sampled from its space, its own examples, or what it turns out to take."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from envmesh.spaces import ToolList
from envmesh_cli.check.schema_samples import sample_schema, sample_tool_call
from envmesh_cli.check.stage import ActionRefused, EnvironmentBroke, Seen, Stage, by_author, of_agent

__all__ = ["Chooser", "NoAction", "bad_actions"]

_TRIED: tuple[Any, ...] = (
    "go", 0, 0.0, "", {"role": "assistant", "content": "hello"}, {}, [], b"",
)  # fmt: skip
"""What is tried where nothing says what an action is."""
_DRAWS = 100
"""How often an action is drawn before it counts as one that cannot be."""


class NoAction(Exception):
    """The check found no action to try the environment with, and so cannot judge it."""


class Chooser:
    """Chooses actions for one episode. The same seed chooses the same ones, given the same observations."""

    def __init__(self, stage: Stage, seed: int, pool: Sequence[Any] = ()) -> None:
        self._random = random.Random(f"envmesh check {seed}")
        self._stage = stage
        examples = getattr(stage.instance, "example_actions", None)
        self._pool = list(pool) or by_author(
            "example_actions()", lambda: list(examples() if callable(examples) else examples or ())
        )
        self._samplers: dict[str, Callable[[Any], Any]] = {}
        for agent in stage.agents or ("",):
            space = of_agent(stage.action_space, agent) if agent else stage.action_space
            self._samplers[agent] = self._sampler(agent, space)
        if pool:
            self.origin = "the given actions"
        elif self._pool:
            self.origin = "its example_actions"
        elif stage.action_space is not None:
            self.origin = "samples of its action space"
        else:
            self.origin = "the action that it turned out to take"

    def choose(self, seen: Seen) -> Any:
        """The next action, or one for each agent that is due."""
        if not self._stage.agents:
            return self._samplers[""](_mask(seen.observation, seen.info))
        infos = seen.info if isinstance(seen.info, Mapping) else {}
        return {
            agent: self._of(agent)(_mask(seen.observation.get(agent), infos.get(agent)))
            for agent in seen.acting
        }

    def _of(self, agent: str) -> Callable[[Any], Any]:
        """An agent that nobody declared acts as the first one does, so that the judge can go on."""
        return self._samplers.get(agent) or next(iter(self._samplers.values()))

    def _sampler(self, agent: str, space: Any) -> Callable[[Any], Any]:
        if self._pool:
            return lambda mask: self._random.choice(self._pool)
        if space is None:
            found = _found(self._stage)
            return lambda mask: found
        draw = self._drawing(space)
        return lambda mask: self._contained(agent, lambda: draw(mask))

    def _drawing(self, space: Any) -> Callable[[Any], Any]:
        if isinstance(space, ToolList):
            return lambda mask: sample_tool_call(space, self._random)
        if hasattr(space, "sample"):
            own = copy.deepcopy(space)
            own.seed(self._random.randrange(2**31))
            return lambda mask: _sample(own, mask)
        schema = getattr(space, "schema", space)
        return lambda mask: sample_schema(schema, self._random)

    def _contained(self, agent: str, draw: Callable[[], Any]) -> Any:
        """What is drawn may be outside of the space, where this says more than can be drawn for (a pattern): that is
        no fault of the environment.

        Raises:
            NoAction: it is outside again and again.
        """
        refused = ""
        for _ in range(_DRAWS):
            action = draw()
            try:
                self._stage.receive({agent: action} if agent else action)
            except ActionRefused as error:
                refused = str(error)
            else:
                return action
        raise NoAction(
            f"none of {_DRAWS} actions that were drawn for its action space is in it; the last, {refused}"
        )


def bad_actions(space: Any) -> list[Any]:
    """Values that an action hardly ever is; those that the space contains are told apart by its check."""
    shape = getattr(space, "shape", None)
    wrong: list[Any] = [
        None,
        "no such action",
        -1,
        10**12,
        1.5,
        True,
        [],
        [1, 2, 3],
        {"no": "such"},
        b"\xff\x00",
        "x" * 100_000,
    ]
    if shape is not None:
        wrong += [np.full(shape, np.nan), np.zeros((*shape, 2)), np.full(shape, 1e30)]
    return wrong


def _sample(space: Any, mask: Any) -> Any:
    if mask is not None and getattr(space, "n", None) == len(mask) and any(mask):
        return space.sample(mask=np.asarray(mask, np.int8))
    return space.sample()


def _mask(observation: Any, info: Any) -> Any:
    """The legal actions, where an environment tells them: by custom in ``action_mask``."""
    for source in (info, observation):
        if isinstance(source, Mapping) and source.get("action_mask") is not None:
            return np.asarray(source["action_mask"]).ravel()
    return None


_taken: dict[int, Any] = {}


def _found(stage: Stage) -> Any:
    """The first of a few values that a fresh instance steps with; looked for once a process and definition."""
    if id(stage.definition) in _taken:
        return _taken[id(stage.definition)]
    refused: list[str] = []
    for value in _TRIED:
        other = Stage(stage.definition)
        try:
            other.reset(0)
            other.step(dict.fromkeys(other.instance.acting, value) if other.agents else value)
        except (EnvironmentBroke, ActionRefused) as error:
            refused.append(f"{value!r}: {error}")
            continue
        finally:
            other.close()
        _taken[id(stage.definition)] = value
        return value
    raise NoAction(
        f"nothing says what an action is, and none of {len(_TRIED)} values was taken; the first, {refused[0][:200]}"
    )
