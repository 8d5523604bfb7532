"""When a child is started again, and what its lines mean."""

import subprocess
import sys

import pytest

from envmesh_cli.child import Backoff, complaint, read_line


def test_short_lives_are_followed_by_longer_waits_and_then_by_none():
    backoff = Backoff(shortest=0.1, longest=1.0, good_life=30.0, attempts=6)
    assert [backoff.delay(1.0) for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, None]


def test_a_good_life_forgives_the_bad_ones_before():
    backoff = Backoff(attempts=3)
    assert [backoff.delay(lived) for lived in (1.0, 1.0, 31.0, 1.0)] == [0.1, 0.2, 0.1, 0.2]


def test_a_log_record_keeps_its_level_and_what_varies():
    record = '{"level": "info", "service": "h", "logger": "l", "message": "ready", "port": 1}'
    line = read_line("host", record)
    assert (line.source, line.level, line.text, dict(line.fields)) == ("host", "info", "ready", {"port": 1})


def test_anything_else_is_a_line_of_text():
    for text in ("Traceback (most recent call last):", "{not json", '{"json": "but no record"}', "[1]", "{}"):
        line = read_line("host", text)
        assert (line.level, line.text) == ("", text)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["envmesh serve: it cannot"], "it cannot"),
        (["a warning", "envmesh serve: 2 mistakes:", "  one", "  two"], "2 mistakes:\n  one\n  two"),
        (["envmesh serve: first", "envmesh serve: second"], "second"),
        (["Traceback", "ValueError: envmesh serve: no"], ""),
        ([], ""),
    ],
)
def test_a_complaint_is_its_sentence_and_all_that_follows(lines: list[str], said: str):
    assert complaint(lines) == said


@pytest.mark.parametrize(
    ("level", "also"), [("error", []), ("warning", []), ("info", ["busy"]), ("debug", ["busy"])]
)
def test_that_a_child_is_ready_is_heard_at_every_level_of_its_log(level: str, also: list[str]):
    program = """
import logging, sys
from envmesh_service.logs import configure
configure(sys.argv[1], service="host", form="json", stream=sys.stdout)
log = logging.getLogger("envmesh.host")
log.info("busy")
log.info("ready", extra={"address": "127.0.0.1:1"})
"""
    done = subprocess.run(
        [sys.executable, "-c", program, level], capture_output=True, text=True, timeout=30, check=True
    )
    lines = [read_line("host", line) for line in done.stdout.splitlines()]
    assert [line.text for line in lines] == [*also, "ready"]
    assert lines[-1].fields["address"] == "127.0.0.1:1"
