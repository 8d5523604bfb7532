"""What people read is what was meant: a bracket in a target, a path or a space is no markup."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from envmesh.target import load
from envmesh_cli.serve import announce
from envmesh_cli.tables import marked, open_console, plain_table
from envmesh_host.settings import HostSettings

WORDS = (
    "within [-1.0, 0.0] to [inf, 1.0]",
    "greet:Greet?greeting=[/data]",
    "x[/g].jsonl",
    ":warning:C",
    "a\\",
)


@pytest.mark.parametrize("words", WORDS)
def test_brackets_and_colons_are_shown_as_they_are(words: str, capsys: pytest.CaptureFixture[str]):
    table = plain_table("name", "target")
    table.add_row(words, marked("{} [dim](and more)[/]", words))
    console = open_console()
    console.print(words)
    console.print(table)
    console.print(marked("[bold]{}[/]: {}", words, words))
    shown = capsys.readouterr().out
    assert shown.count(words) == 5
    assert "[/]" not in shown


def test_serve_announces_a_target_with_brackets(capsys: pytest.CaptureFixture[str]):
    target = "greet:Greet?greeting=[/data]"
    definition = replace(load("tests.environments.countdown:Countdown"), target=target)
    host: Any = SimpleNamespace(
        definitions=[definition],
        settings=HostSettings(),
        address="127.0.0.1:7070",
        exporter=SimpleNamespace(port=1),
    )
    announce(host)
    assert capsys.readouterr().out.count(target) == 2  # in the table, and in the advice
