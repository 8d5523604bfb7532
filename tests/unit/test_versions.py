"""Which version of an environment is the newest, for clients, hosts and brokers alike."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envmesh.versions import newest, rising, version_order


@pytest.mark.parametrize(
    "rising",
    [
        ["1", "2", "10"],
        ["1.0", "1.0.1", "1.2", "1.10"],
        ["1.0rc1", "1.0"],
        ["2024-01-09", "2024-01-10", "2024-10-01"],
        ["a", "b"],
        ["v9", "v10"],
        ["1-rc", "1", "1.1"],
    ],
)
def test_versions_are_ordered_as_people_order_them(rising):
    keys = [version_order(version) for version in rising]
    assert all(first < second for first, second in itertools.pairwise(keys))


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_two_versions_can_be_compared(first, second):
    assert (version_order(first) < version_order(second)) in (True, False)


def test_of_several_versions_the_newest_is_found_and_they_are_listed_as_they_rise():
    keys = ["e@10", "f@1", "e@9", "e@10-rc"]
    assert rising(keys) == ["e@9", "e@10-rc", "e@10", "f@1"]
    assert newest(key for key in keys if key.startswith("e@")) == "e@10"
    assert newest([]) is None
