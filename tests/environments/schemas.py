"""Environments whose actions are JSON documents, for ``envmesh check`` to draw, as far as it can."""

from envmesh.env import environment


class Walk:
    """Three steps in a direction, which the observation repeats."""

    def reset(self, *, seed=None, options=None):
        self.seed, self.steps = seed, 0
        return f"from {seed}", {}

    def step(self, action):
        self.steps += 1
        return f"{self.steps} {action}", 1.0, self.steps == 3, False, {}


@environment(
    recovery="replay",
    isolation="inline",
    action_space={
        "$defs": {"Direction": {"enum": ["north", "south"], "title": "Direction", "type": "string"}},
        "properties": {"direction": {"$ref": "#/$defs/Direction"}},
        "required": ["direction"],
        "title": "Move",
        "type": "object",
    },
)
class Enumerated(Walk):
    """Its schema is what pydantic makes of a model with an enumeration."""


CODE = {
    "properties": {"code": {"pattern": "^[A-Z]{3}$", "type": "string"}},
    "required": ["code"],
    "type": "object",
}


@environment(recovery="replay", isolation="inline", action_space=CODE)
class Patterned(Walk):
    """Nothing is drawn at random that its pattern matches."""


@environment(recovery="replay", isolation="inline", action_space=CODE)
class PatternedWithExamples(Walk):
    """The same, and it says what matches."""

    example_actions = ({"code": "ABC"}, {"code": "XYZ"})


@environment(recovery="replay", isolation="inline", action_space=CODE)
class WrongExamples(Walk):
    """What it gives as examples is outside of its own space."""

    example_actions = ({"code": "abc"},)


@environment(recovery="replay", isolation="inline", action_space=CODE)
class BrokenExamples(Walk):
    """What should give examples is no such thing."""

    example_actions = 3
