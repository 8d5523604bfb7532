# ruff: noqa: RUF009 - setting(...) makes a field, as dataclasses.field does

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from envmesh_service.settings import Mistake, SettingsError, load, parse_duration, parse_size, setting


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    PREFIX: ClassVar[str] = "EXAMPLE_"

    name: str = setting("x", "a name")
    slots: int = setting(4, "slots", at_least=1, at_most=10)
    share: float = setting(0.5, "a share", at_least=0, at_most=1)
    wait: float = setting(1.0, "a wait", at_least=0.1, unit="seconds")
    size: int = setting(1024, "a size", at_most=2**20, unit="bytes")
    on: bool = setting(False, "a switch")
    colour: Colour = setting(Colour.RED, "a colour")
    level: str = setting("info", "a level", choices=("info", "debug"))
    path: Path | None = setting(None, "a file")
    hosts: tuple[str, ...] = setting((), "hosts")

    def mistakes(self):
        if self.name == self.level:
            yield Mistake("EXAMPLE_NAME", "it is the level", "another is right")


def test_defaults_then_environment_then_overrides():
    environ = {
        "EXAMPLE_SLOTS": "5",
        "EXAMPLE_WAIT": "250ms",
        "EXAMPLE_SIZE": "64KiB",
        "EXAMPLE_ON": "yes",
        "EXAMPLE_COLOUR": "blue",
        "EXAMPLE_PATH": "/tmp/x",
        "EXAMPLE_HOSTS": "a,b",
        "OTHER": "ignored",
    }
    settings = load(Example, environ, {"slots": 6, "share": None})
    assert settings == Example(
        slots=6, wait=0.25, size=65536, on=True, colour=Colour.BLUE, path=Path("/tmp/x"), hosts=("a", "b")
    )
    assert load(Example, {}) == Example()
    assert load(Example, {"EXAMPLE_PATH": ""}).path is None


def test_all_mistakes_are_told_at_once():
    environ = {
        "EXAMPLE_SLOTS": "11",
        "EXAMPLE_SHARE": "nan",
        "EXAMPLE_WAIT": "soon",
        "EXAMPLE_SIZE": "2MiB",
        "EXAMPLE_ON": "perhaps",
        "EXAMPLE_COLOUR": "green",
        "EXAMPLE_LEVEL": "loud",
        "EXAMPLE_SLOT": "1",
        "EXAMPLE_SERVICE_HOST": "10.0.0.1",
        "EXAMPLE_PORT_7070_TCP_ADDR": "10.0.0.1",
    }
    with pytest.raises(SettingsError) as caught:
        load(Example, environ, {"colours": "red"})
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        "colours: there is no such setting; perhaps colour is meant",
        "EXAMPLE_SLOTS: got '11'; at least 1 and at most 10 is right",
        "EXAMPLE_SHARE: got 'nan'; at least 0 and at most 1 is right",
        "EXAMPLE_WAIT: got 'soon'; a duration such as 250ms, 10s, 5m or 2h is right",
        "EXAMPLE_SIZE: got '2MiB'; at most 1.04858e+06 bytes is right",
        "EXAMPLE_ON: got 'perhaps'; true or false is right",
        "EXAMPLE_COLOUR: got 'green'; one of red, blue is right",
        "EXAMPLE_LEVEL: got 'loud'; one of info, debug is right",
        "EXAMPLE_SLOT: there is no such setting; perhaps EXAMPLE_SLOTS is meant",
    ]
    with pytest.raises(SettingsError, match="it is the level"):
        load(Example, {"EXAMPLE_NAME": "info"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5s", 1.5), ("250ms", 0.25), ("10m", 600), ("2h", 7200), ("1d", 86400)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65536), ("64KiB", 65536), ("1.5 MiB", 1572864), ("1GB", 10**9)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1w", "ten", "1e5", "inf"])
def test_what_is_no_duration_or_size(text):
    with pytest.raises(ValueError, match="is right"):
        parse_duration(text)
    with pytest.raises(ValueError, match="is right"):
        parse_size(text)
