"""Values drawn for a JSON Schema, where nothing but the schema says what an action is."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

from envmesh.errors import MissingExtra
from envmesh.spaces import ToolList

__all__ = ["sample_schema", "sample_tool_call"]

_DEEPEST = 24
_WHOLE = 8
"""Deeper than this, what a value can do without is left out, for a schema may contain itself."""


def sample_schema(schema: Any, chance: random.Random) -> Any:
    """A value for the plainer JSON Schemas; what a schema cannot be sampled for is left to its check.

    Raises:
        MissingExtra: it refers to another part of itself, and the package that finds this is not installed.
    """
    return _Sampler(schema, chance).sample(schema, 0)


def sample_tool_call(tools: ToolList, chance: random.Random) -> dict[str, Any]:
    """A call of one of the tools, with arguments drawn for it. Raises: as ``sample_schema``."""
    tool = chance.choice(tools.tools)
    return {"name": tool.name, "arguments": sample_schema({"type": "object", **tool.parameters}, chance)}


class _Sampler:
    """Draws for the parts of one schema, which may refer to other parts of it."""

    def __init__(self, whole: Any, chance: random.Random) -> None:
        self._whole = whole
        self._chance = chance

    def sample(self, schema: Any, depth: int) -> Any:
        """A value for a part, ``depth`` parts below the whole."""
        if not isinstance(schema, Mapping) or depth > _DEEPEST:
            return "go"
        schema = self._joined(schema, 0)
        if "const" in schema:
            return schema["const"]
        for key in ("enum", "examples"):
            if schema.get(key):
                return self._chance.choice(list(schema[key]))
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self.sample(self._chance.choice(list(schema[key])), depth + 1)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        match self._chance.choice(kind) if isinstance(kind, list) else kind:
            case "null":
                return None
            case "boolean":
                return self._chance.random() < 0.5
            case "integer":
                return _integer(schema, self._chance)
            case "number":
                return _number(schema, self._chance)
            case "array":
                least = int(schema.get("minItems", 0))
                length = max(least, min(2, int(schema.get("maxItems", 2)))) if depth <= _WHOLE else least
                return [self.sample(schema.get("items", {}), depth + 1) for _ in range(length)]
            case "object":
                properties, needed = schema.get("properties", {}), schema.get("required", ())
                return {
                    name: self.sample(part, depth + 1)
                    for name, part in properties.items()
                    if depth <= _WHOLE or name in needed
                }
            case _:
                return _text(schema, self._chance)

    def _joined(self, schema: Mapping[str, Any], hops: int) -> Mapping[str, Any]:
        """The schema, together with the one that it refers to and with all that ``allOf`` asks for as well."""
        parts = list(schema.get("allOf", ()))
        if "$ref" in schema:
            parts += self._found(schema["$ref"])
        if not parts or hops > _WHOLE:
            return schema
        joined: dict[str, Any] = {}
        own = {key: value for key, value in schema.items() if key not in ("allOf", "$ref")}
        for part in (*(self._joined(part, hops + 1) for part in parts if isinstance(part, Mapping)), own):
            properties = {**joined.get("properties", {}), **part.get("properties", {})}
            needed = [*joined.get("required", ()), *part.get("required", ())]
            joined |= {**part, **({"properties": properties} if properties else {}), "required": needed}
        return joined

    def _found(self, reference: str) -> list[Any]:
        try:
            from referencing import Registry
            from referencing.exceptions import Unresolvable
            from referencing.jsonschema import DRAFT202012
        except ImportError:
            raise MissingExtra(
                "JSON Schemas with $ref need jsonschema: pip install 'envmesh[mesh]'"
            ) from None
        resolver = Registry().resolver_with_root(DRAFT202012.create_resource(dict(self._whole)))
        try:
            return [resolver.lookup(reference).contents]
        except Unresolvable:  # the check of the space tells this better
            return []


def _integer(schema: Mapping[str, Any], chance: random.Random) -> int:
    least = [math.ceil(bound) for bound in _bounds(schema, "minimum")]
    least += [math.floor(bound) + 1 for bound in _bounds(schema, "exclusiveMinimum")]
    most = [math.floor(bound) for bound in _bounds(schema, "maximum")]
    most += [math.ceil(bound) - 1 for bound in _bounds(schema, "exclusiveMaximum")]
    return chance.randint(*_ends(least, most, 9))


def _number(schema: Mapping[str, Any], chance: random.Random) -> float:
    least = [*_bounds(schema, "minimum"), *_bounds(schema, "exclusiveMinimum")]
    most = [*_bounds(schema, "maximum"), *_bounds(schema, "exclusiveMaximum")]
    return chance.uniform(*_ends(least, most, 1))


def _bounds(schema: Mapping[str, Any], key: str) -> Iterable[Any]:
    """The bound, where there is one; older drafts write a truth value for an exclusive one."""
    return [] if isinstance(schema.get(key), bool | None) else [schema[key]]


def _ends(least: list[Any], most: list[Any], width: int) -> tuple[Any, Any]:
    """From where to where: an open end is ``width`` from the other, and the lower one 0 where it can be."""
    high = min(most, default=None)
    low = max(least, default=0 if high is None or high > 0 else high - width)
    return low, max(low, low + width if high is None else high)


def _text(schema: Mapping[str, Any], chance: random.Random) -> str:
    text = chance.choice(["[4]", "[0]", "[1 2]", "[up]", "hello", "<answer>42</answer>", "look around"])
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: int(schema.get("maxLength", len(text)))]
