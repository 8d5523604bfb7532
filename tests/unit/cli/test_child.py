"""When a child is started again, and what its lines mean."""

from envmesh_cli.child import Backoff, read_line


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
