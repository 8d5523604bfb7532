"""JSON Schema and tool lists: the two spaces for agents that speak JSON, and the checks of their values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from envmesh.errors import MissingExtra
from envmesh.space_arrays import MalformedSpace
from envmesh.space_words import a_value, listing
from envmesh.v1 import space_pb2
from envmesh.wire import Json

__all__ = ["JsonSchema", "Tool", "ToolList", "json_check", "read_schema", "spell_schema", "tools_check"]

Check = Callable[[Any], str | None]


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The JSON documents that ``schema`` accepts (draft 2020-12 unless it names another with ``$schema``)."""

    schema: Mapping[str, Any] | bool


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: the name it is called by, what it does, and the JSON Schema of its arguments (an object)."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolList:
    """Calls of tools: ``{"name": …, "arguments": {…}}``, with an ``"id"`` if the caller wants one.

    ``allow_text`` also takes plain text, an answer instead of a call; ``allow_several`` also a list of calls.
    """

    tools: tuple[Tool, ...]
    allow_text: bool = False
    allow_several: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tools", tuple(self.tools))
        names = [tool.name for tool in self.tools]
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
            raise ValueError(f"tools have distinct names that are not empty, got {listing(names)}")


def spell_schema(schema: Any) -> str:
    """A schema as the text that travels.

    Raises:
        ValueError: it is no valid JSON Schema; the message says where.
        MissingExtra: the package that knows is not installed.
    """
    try:
        text = json.dumps(schema, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a JSON Schema is no JSON document: {error}") from None
    _validator(json.loads(text))
    return text


def read_schema(text: str) -> Any:
    """The schema of a message.

    Raises:
        MalformedSpace: it is no JSON document, or one that cannot be a schema.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedSpace("a JSON Schema is no JSON document") from None
    if not isinstance(schema, dict | bool):
        raise MalformedSpace("a JSON Schema is an object or a truth value")
    return schema


def json_check(text: str) -> Check:
    """The check of a JSON Schema space. The validator is made when it is first needed: only hosts check."""
    schema = read_schema(text)
    find: Callable[[Any], str | None] | None = None

    def check(value: Any) -> str | None:
        nonlocal find
        if find is None:
            find = _finder(schema)
        return find(value.document if isinstance(value, Json) else value)

    return check


def tools_check(message: space_pb2.ToolListSpace) -> Check:
    """The check of a tool list."""
    arguments = {
        tool.name: json_check(tool.parameters or '{"type":"object","maxProperties":0}')
        for tool in message.tools
    }
    forms = "a tool call {'name': …, 'arguments': {…}}"
    if message.allow_several:
        forms += " or a list of such"
    if message.allow_text:
        forms += " or text"

    def check_call(call: Any) -> str | None:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return f"expected {forms}, got {a_value(call)}"
        surplus = call.keys() - {"name", "arguments", "id"}
        if surplus:
            return f"expected {forms}, with an 'id' if need be; got also {listing(sorted(map(str, surplus)))}"
        check_arguments = arguments.get(call["name"])
        if check_arguments is None:
            return (
                f"expected a call of one of the tools {listing(arguments)}, got one of {call['name'][:80]!r}"
            )
        given = call.get("arguments", {})
        if not isinstance(given, dict):
            return f"expected the arguments of {call['name']!r} as an object, got {a_value(given)}"
        problem = check_arguments(given)
        return None if problem is None else f"in the arguments of {call['name']!r}, {problem}"

    def check(value: Any) -> str | None:
        value = value.document if isinstance(value, Json) else value
        if isinstance(value, str) and message.allow_text:
            return None
        if isinstance(value, list) and message.allow_several:
            return next((problem for problem in map(check_call, value) if problem is not None), None)
        return check_call(value)

    return check


def _finder(schema: Any) -> Callable[[Any], str | None]:
    validator = _validator(schema)
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    def find(value: Any) -> str | None:
        try:
            error = best_match(validator.iter_errors(value))
        except RecursionError:
            return "expected a JSON document, got one nested too deeply"
        except Unresolvable as unresolvable:
            return f"the schema itself refers to what is not in it: {unresolvable}"
        except TypeError:
            return f"expected a JSON document, got {a_value(value)}"
        if error is None:
            return None
        message = error.message if len(error.message) <= 300 else f"{error.message[:297]}…"
        return f"at {error.json_path}: {message}"

    return find


def _validator(schema: Any) -> Any:
    """A validator that looks nothing up outside the schema.

    Raises:
        ValueError: the schema is no valid JSON Schema.
        MissingExtra: jsonschema is not installed.
    """
    try:
        import jsonschema
        from referencing import Registry
    except ImportError:
        raise MissingExtra("checking JSON Schemas needs jsonschema: pip install 'envmesh[mesh]'") from None
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"no valid JSON Schema: at {error.json_path}: {error.message[:300]}") from None
    return kind(schema, registry=Registry())
