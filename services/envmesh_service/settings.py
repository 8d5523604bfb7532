"""Settings of services: one frozen dataclass each, read from the environment and validated in full.

A field made with ``setting(...)`` knows its default, what it is for, and its bounds. ``load`` reads every field from
its variable (the class's ``PREFIX`` and the field's name in capitals), lets given values win over it, and reports all
mistakes at once, each with what was wrong, where, and what would be right. Nothing is ignored: a variable with the
class's prefix that no field has is a mistake too.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

__all__ = ["Mistake", "SettingsError", "load", "parse_duration", "parse_size", "setting", "variable"]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong with the settings."""

    where: str
    """The variable, or the argument."""
    wrong: str
    right: str

    def __str__(self) -> str:
        return f"{self.where}: {self.wrong}; {self.right}"


class SettingsError(ValueError):
    """The settings cannot be used. ``mistakes`` are all of them."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        self.mistakes = mistakes
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__("\n".join([f"{count} in the settings:", *(f"  {mistake}" for mistake in mistakes)]))


class Settings(Protocol):
    """A frozen dataclass of settings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


_Settings = TypeVar("_Settings", bound=Settings)

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|min|m|h|d)?")
_SECONDS = {"ms": 1e-3, None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d*)?)\s*(B|KiB|MiB|GiB|kB|KB|MB|GB)?")
_BYTES = {
    None: 1,
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
}
_TRUTH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_SERVICE_LINK = re.compile(r".*(_SERVICE_HOST|_SERVICE_PORT(_.*)?|_PORT|_PORT_\d+_(TCP|UDP|SCTP)(_.*)?)")
"""What Kubernetes adds to a container's environment for each Service of its namespace."""


def setting(
    default: Any,
    purpose: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    unit: str = "",
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of a settings class. ``unit`` is ``seconds``, ``bytes`` or a word for messages."""
    metadata = {
        "purpose": purpose,
        "at_least": at_least,
        "at_most": at_most,
        "unit": unit,
        "choices": choices,
    }
    return dataclasses.field(default=default, metadata=metadata)


def variable(cls: type[Any], name: str) -> str:
    """The environment variable of a field."""
    return f"{getattr(cls, 'PREFIX', 'ENVMESH_')}{name.upper()}"


def load(
    cls: type[_Settings], environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> _Settings:
    """The settings of ``cls``: defaults, then the environment, then ``overrides`` by field name (None: not given).

    A class may have a method ``mistakes(self) -> Iterable[Mistake]`` for what no single field can tell.

    Raises:
        SettingsError: with every mistake there is.
    """
    mistakes: list[Mistake] = []
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    mistakes.extend(
        Mistake(name, "there is no such setting", _nearest(name, fields))
        for name in sorted(given.keys() - fields.keys())
    )
    for name, field in fields.items():
        where = variable(cls, name)
        source: Any = given.get(name, environ.get(where))
        if source is None:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                mistakes.append(
                    Mistake(where, "it is missing", f"it says {field.metadata.get('purpose', name)}")
                )
            continue
        try:
            value = _parse(hints[name], source, field.metadata.get("unit", ""))
            _check(value, field.metadata)
        except ValueError as error:
            mistakes.append(Mistake(name if name in given else where, f"got {source!r}", str(error)))
        else:
            values[name] = value
    mistakes.extend(_unknown(cls, environ, fields))
    if not mistakes:
        settings = cls(**values)
        mistakes.extend(getattr(settings, "mistakes", tuple)())
        if not mistakes:
            return settings
    raise SettingsError(tuple(mistakes))


def parse_duration(text: str) -> float:
    """Seconds: ``90``, ``1.5s``, ``250ms``, ``10m``, ``2h``.

    Raises:
        ValueError: it is none of these.
    """
    if (match := _DURATION.fullmatch(text.strip())) is None:
        raise ValueError("a duration such as 250ms, 10s, 5m or 2h is right")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes: ``65536``, ``64KiB``, ``16MiB``, ``1GB``.

    Raises:
        ValueError: it is none of these.
    """
    if (match := _SIZE.fullmatch(text.strip())) is None:
        raise ValueError("a size such as 65536, 64KiB or 16MiB is right")
    return int(float(match[1]) * _BYTES[match[2]])


def _parse(hint: Any, source: Any, unit: str) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
        if isinstance(source, str) and not source.strip():
            return None
    if typing.get_origin(hint) is tuple:
        parts = source.split(",") if isinstance(source, str) else source
        return tuple(_parse(typing.get_args(hint)[0], part, unit) for part in parts if part != "")
    if not isinstance(source, str):
        return _converted(hint, source)
    text = source.strip()
    if hint is bool:
        if text.lower() not in _TRUTH:
            raise ValueError("true or false is right")
        return _TRUTH[text.lower()]
    if unit == "seconds":
        return parse_duration(text)
    if unit == "bytes":
        return parse_size(text)
    if hint is int:
        return _number(int, text, "a whole number is right")
    if hint is float:
        return _number(float, text, "a number is right")
    return _converted(hint, text)


def _converted(hint: Any, value: Any) -> Any:
    if hint is bool or hint is int:
        if not isinstance(value, hint):
            raise ValueError(f"{'true or false' if hint is bool else 'a whole number'} is right")
        return value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            raise ValueError(f"one of {', '.join(str(member.value) for member in hint)} is right") from None
    if hint in (float, str, Path):
        return hint(value)
    return value


def _number(kind: type[int] | type[float], text: str, right: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(right) from None


def _check(value: Any, metadata: Mapping[str, Any]) -> None:
    choices, low, high = metadata.get("choices"), metadata.get("at_least"), metadata.get("at_most")
    if choices and value not in choices:
        raise ValueError(f"one of {', '.join(choices)} is right")
    if (
        value is None
        or isinstance(value, str | tuple | Path | bool | enum.Enum)
        or (low is None and high is None)
    ):
        return
    if not ((low is None or value >= low) and (high is None or value <= high)):
        bounds = [
            f"at least {low:g}" if low is not None else "",
            f"at most {high:g}" if high is not None else "",
        ]
        unit = f" {metadata['unit']}" if metadata.get("unit") else ""
        raise ValueError(f"{' and '.join(filter(None, bounds))}{unit} is right")


def _unknown(cls: type[Any], environ: Mapping[str, str], fields: Mapping[str, Any]) -> list[Mistake]:
    prefix = getattr(cls, "PREFIX", "")
    known = {variable(cls, name): name for name in fields}
    return [
        Mistake(name, "there is no such setting", _nearest(name, known))
        for name in sorted(environ)
        if prefix and name.startswith(prefix) and name not in known and not _SERVICE_LINK.fullmatch(name)
    ]


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"perhaps {close[0]} is meant" if close else f"there are {', '.join(sorted(known))}"
