"""What is drawn for a JSON Schema belongs to it, for the schemas that people's libraries write."""

from __future__ import annotations

import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from envmesh.env import Declaration, Definition
from envmesh.spaces import Tool, ToolList
from envmesh_cli.check.actions import Chooser, NoAction
from envmesh_cli.check.schema_samples import sample_schema
from envmesh_cli.check.stage import Stage
from tests.environments.schemas import Walk

DEFINITIONS = {
    "Direction": {"enum": ["north", "south"], "type": "string"},
    "Point": {
        "type": "object",
        "properties": {"x": {"type": "integer", "minimum": 5}, "y": {"type": "number", "maximum": -2.5}},
        "required": ["x", "y"],
    },
    "Tree": {
        "type": "object",
        "properties": {
            "left": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]},
            "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}},
            "name": {"type": "string", "minLength": 3},
        },
        "required": ["name"],
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "reference": {"$ref": "#/$defs/Direction"},
    "reference with more": {"$ref": "#/$defs/Point", "description": "where to"},
    "reference inside": {"type": "array", "items": {"$ref": "#/$defs/Point"}, "minItems": 3},
    "reference to what refers": {"properties": {"to": {"$ref": "#/properties/from"}, "from": {"const": 1}}},
    "reference with an escape": {"$defs": {"a/b": {"const": 2}}, "$ref": "#/$defs/a~1b"},
    "all of one": {"properties": {"way": {"allOf": [{"$ref": "#/$defs/Direction"}], "default": "north"}}},
    "all of several": {
        "allOf": [
            {"$ref": "#/$defs/Point"},
            {"properties": {"way": {"$ref": "#/$defs/Direction"}}, "required": ["way"]},
        ],
        "properties": {"by": {"const": "me"}},
        "required": ["by"],
    },
    "itself": {"$ref": "#/$defs/Tree"},
    "at most": {"type": "integer", "maximum": -5},
    "at most nothing": {"type": "integer", "maximum": 0},
    "more than": {"type": "integer", "exclusiveMinimum": 20, "exclusiveMaximum": 22},
    "between fractions": {"type": "integer", "minimum": 0.5, "maximum": 1.5},
    "more than a fraction": {"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 1.5},
    "both bounds": {"type": "integer", "minimum": 3, "exclusiveMinimum": 3, "maximum": 4},
    "number at most": {"type": "number", "maximum": -5.5},
    "number more than": {"type": "number", "exclusiveMinimum": 1e6},
    "number less than": {"type": "number", "exclusiveMinimum": 0.25, "exclusiveMaximum": 0.75},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_drawn_belongs_to_the_schema(name: str) -> None:
    schema = {**SCHEMAS[name], "$defs": {**DEFINITIONS, **SCHEMAS[name].get("$defs", {})}}
    validator, chance = Draft202012Validator(schema), random.Random(7)
    drawn = [sample_schema(schema, chance) for _ in range(50)]
    assert [str(error) for value in drawn for error in validator.iter_errors(value)] == []


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "https://example.com/elsewhere.json"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
        {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
        True,
        {},
    ],
)
def test_what_cannot_be_drawn_is_left_to_the_check_of_the_space(schema: Any) -> None:
    assert sample_schema(schema, random.Random(7)) is not None


def chooser(action_space: Any) -> tuple[Stage, Chooser]:
    declaration = Declaration(action_space=action_space)
    stage = Stage(Definition(target="walk", name="walk", declaration=declaration, factory=Walk))
    return stage, Chooser(stage, 0)


@pytest.mark.parametrize(
    "space",
    [
        {"type": "integer", "minimum": 0, "maximum": 99, "multipleOf": 7},
        ToolList((Tool("look"), Tool("say", "", {"properties": {"word": {"type": "string"}}}))),
    ],
    ids=["by chance", "tools"],
)
def test_an_action_is_drawn_until_the_space_contains_it(space: Any) -> None:
    stage, choosing = chooser(space)
    seen = stage.reset(1)
    while not seen.done:
        seen = stage.step(choosing.choose(seen))


def test_a_space_from_which_nothing_can_be_drawn_is_told() -> None:
    stage, choosing = chooser({"type": "string", "pattern": "^[A-Z]{3}$"})
    with pytest.raises(NoAction, match=r"none of 100 actions .* does not match"):
        choosing.choose(stage.reset(1))
