"""When a child is started again, and what its lines mean."""

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
