"""Actions to try an environment with: sampled from its space, its own examples, or what it turns out to take."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from envmesh.spaces import ToolList
from envmesh_cli.check.stage import ActionRefused, EnvironmentBroke, Seen, Stage, of_agent

__all__ = ["Chooser", "NoAction", "bad_actions", "sample_schema"]

_TRIED: tuple[Any, ...] = (
    "go", 0, 0.0, "", {"role": "assistant", "content": "hello"}, {}, [], b"",
)  # fmt: skip
"""What is tried where nothing says what an action is."""


class NoAction(Exception):
    """No action could be found that the environment takes."""


class Chooser:
    """Chooses actions for one episode. The same seed chooses the same ones, given the same observations."""

    def __init__(self, stage: Stage, seed: int, pool: Sequence[Any] = ()) -> None:
        self._random = random.Random(f"envmesh check {seed}")
        self._stage = stage
        examples = getattr(stage.instance, "example_actions", None)
        self._pool = list(pool) or list(examples() if callable(examples) else examples or ())
        self._samplers: dict[str, Callable[[Any], Any]] = {}
        for agent in stage.agents or ("",):
            space = of_agent(stage.action_space, agent) if agent else stage.action_space
            self._samplers[agent] = self._sampler(space)
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

    def _sampler(self, space: Any) -> Callable[[Any], Any]:
        if self._pool:
            return lambda mask: self._random.choice(self._pool)
        if space is None:
            found = _found(self._stage)
            return lambda mask: found
        if isinstance(space, ToolList):
            return lambda mask: _tool_call(space, self._random)
        if hasattr(space, "sample"):
            own = copy.deepcopy(space)
            own.seed(self._random.randrange(2**31))
            return lambda mask: _sample(own, mask)
        schema = getattr(space, "schema", space)
        return lambda mask: sample_schema(schema, self._random)


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


def sample_schema(schema: Any, chance: random.Random, depth: int = 0) -> Any:
    """A value for the plainer JSON Schemas; what a schema cannot be sampled for is left to its check."""
    if not isinstance(schema, Mapping) or depth > 8:
        return "go"
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return chance.choice(list(schema["enum"]))
    if schema.get("examples"):
        return chance.choice(list(schema["examples"]))
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return sample_schema(chance.choice(list(schema[key])), chance, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = chance.choice(kind)
    match kind:
        case "null":
            return None
        case "boolean":
            return chance.random() < 0.5
        case "integer":
            low, high = (
                int(schema.get("minimum", 0)),
                int(schema.get("maximum", schema.get("minimum", 0) + 9)),
            )
            return chance.randint(low, high)
        case "number":
            least = float(schema.get("minimum", 0))
            return chance.uniform(least, float(schema.get("maximum", least + 1)))
        case "array":
            length = max(int(schema.get("minItems", 0)), min(2, int(schema.get("maxItems", 2))))
            return [sample_schema(schema.get("items", {}), chance, depth + 1) for _ in range(length)]
        case "object":
            properties = schema.get("properties", {})
            return {name: sample_schema(properties[name], chance, depth + 1) for name in properties}
        case _:
            return _text(schema, chance)


def _text(schema: Mapping[str, Any], chance: random.Random) -> str:
    text = chance.choice(["[4]", "[0]", "[1 2]", "[up]", "hello", "<answer>42</answer>", "look around"])
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: int(schema.get("maxLength", len(text)))]


def _tool_call(tools: ToolList, chance: random.Random) -> dict[str, Any]:
    tool = chance.choice(list(tools.tools))
    return {"name": tool.name, "arguments": sample_schema(tool.parameters, chance)}


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
