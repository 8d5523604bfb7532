"""When a host has waited long enough for code that does not return."""

import pytest

from envmesh_host.upkeep import StuckPatience

PATIENCE = 30.0


@pytest.mark.parametrize(
    ("stuck", "slots", "too_many"),
    [
        (0, 1, False),
        (1, 1, True),
        (1, 2, True),
        (1, 3, False),
        (2, 3, True),
        (2048, 4096, True),
        (9, 4096, False),
    ],
)
def test_half_of_the_slots_for_long_enough_is_too_many(stuck, slots, too_many):
    patience = StuckPatience(PATIENCE)
    assert patience.look("walk@1", stuck, slots, 100.0) is None
    assert patience.look("walk@1", stuck, slots, 129.9) is None
    why = patience.look("walk@1", stuck, slots, 130.0)
    expected = f"code that does not return holds {stuck} of {slots} slots of walk@1"
    assert why == (expected if too_many else None)


def test_code_that_returns_meanwhile_begins_the_wait_anew():
    patience = StuckPatience(PATIENCE)
    assert patience.look("walk@1", 2, 4, 0.0) is None
    assert patience.look("walk@1", 1, 4, 20.0) is None
    assert patience.look("walk@1", 2, 4, 40.0) is None
    assert patience.look("walk@1", 2, 4, 69.0) is None
    assert patience.look("walk@1", 2, 4, 70.0)


def test_environments_are_counted_each_for_itself():
    patience = StuckPatience(PATIENCE)
    assert patience.look("walk@1", 2, 4, 0.0) is None
    assert patience.look("chess@1", 2, 4, 29.0) is None
    assert patience.look("walk@1", 2, 4, 30.0)
    assert patience.look("chess@1", 2, 4, 30.0) is None
