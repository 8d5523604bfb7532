import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envmesh_broker.names import newest, resolve, version_order


@pytest.mark.parametrize(
    "rising",
    [
        ["1", "2", "10"],
        ["1.0", "1.0.1", "1.2", "1.10"],
        ["1.0rc1", "1.0"],
        ["2024-01-09", "2024-01-10", "2024-10-01"],
        ["a", "b"],
        ["1-rc", "1", "1.1"],
    ],
)
def test_versions_are_ordered_as_people_order_them(rising):
    keys = [version_order(version) for version in rising]
    assert all(first < second for first, second in itertools.pairwise(keys))


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_two_versions_can_be_compared(first, second):
    assert (version_order(first) < version_order(second)) in (True, False)


def test_a_bare_name_means_the_newest_version_of_the_first_choice_that_has_one():
    assert resolve("e", {"e@1", "e@2", "other@9"}) == "e@2"
    assert resolve("e", {"other@9"}, {"e@1"}) == "e@1"
    assert resolve("e@1", {"e@2"}, {"e@1"}) == "e@1"
    assert resolve("e@3", {"e@2"}, {"e@1"}) is None
    assert resolve("f", {"e@2"}) is None
    assert newest([]) is None
