"""For how long some episode of a vector had no copy."""

from envmesh.vector_away import Away


def test_time_counts_while_anybody_is_away():
    away, slot = Away(), object()
    assert away.seconds(5.0) == 0
    away.went(1, slot, 10.0)  # type: ignore[arg-type]
    away.went(2, slot, 11.0)  # type: ignore[arg-type]
    assert away.slot_of(2) is slot
    assert away.came_back(1, 12.0)
    assert away.seconds(13.0) == 3
    assert away.came_back(2, 14.0)
    assert not away
    assert away.seconds(20.0) == 4
    assert not away.came_back(2, 21.0)
    assert away.seconds(22.0) == 4
