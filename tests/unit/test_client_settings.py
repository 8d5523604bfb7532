"""What ``connect`` says of a setting that there is not, or that is out of range."""

from __future__ import annotations

import pytest

import envmesh


def test_a_misspelled_setting_is_told_with_what_is_meant() -> None:
    with pytest.raises(
        TypeError, match=r"connect\(\) takes no 'slot_timout'\. Did you mean 'slot_timeout'\?"
    ):
        envmesh.connect("localhost:7070", slot_timout=3.0)


def test_a_setting_out_of_range_is_told_with_its_range() -> None:
    with pytest.raises(
        ValueError, match="slot_timeout must be more than 0 and at most a week, in seconds; got 0"
    ):
        envmesh.connect("localhost:7070", slot_timeout=0)


def test_a_setting_is_taken() -> None:
    assert envmesh.connect("localhost:7070", slot_timeout=3.0).settings.slot_timeout == 3.0
