"""The schedule of accidents; `make chaos` is the run itself, which wants the machine to itself."""

from tests.chaos.schedule import KINDS, plan


def test_a_schedule_is_the_same_again_and_has_every_kind_before_any_twice():
    first = plan(7, 300.0, 6)
    assert first == plan(7, 300.0, 6) != plan(8, 300.0, 6)
    assert {fault.kind for fault in first[: len(KINDS)]} == set(KINDS)
    busy: dict[int | None, float] = {}
    for fault in first:
        if fault.victim is not None:
            assert busy.get(fault.victim, 0.0) <= fault.at
            busy[fault.victim] = fault.at + fault.seconds
