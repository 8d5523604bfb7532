"""The short form of the chaos run; `make chaos` is the long one."""

import os

import pytest

from tests.chaos.run import chaos, report
from tests.chaos.schedule import KINDS, plan

SEED = int(os.environ.get("CHAOS_SEED", "4"))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "0"))


@pytest.mark.skipif(
    not SECONDS, reason="the short chaos run is begun by CHAOS_SECONDS=25; `make chaos` is the long one"
)
@pytest.mark.timeout(600)
async def test_accidents_of_every_kind_change_no_trajectory(tmp_path):
    print(f"the same again: make chaos MINUTES={SECONDS / 60:g} SEED={SEED}")
    found = await chaos(SEED, SECONDS, tmp_path, print)
    print(report(found))
    assert not found["wrong"], found["wrong"][:20]
    assert sum(found["resumes"].values()) > 100


def test_a_schedule_is_the_same_again_and_has_every_kind_before_any_twice():
    first = plan(7, 300.0, 6)
    assert first == plan(7, 300.0, 6) != plan(8, 300.0, 6)
    assert {fault.kind for fault in first[: len(KINDS)]} == set(KINDS)
    busy: dict[int | None, float] = {}
    for fault in first:
        if fault.victim is not None:
            assert busy.get(fault.victim, 0.0) <= fault.at
            busy[fault.victim] = fault.at + fault.seconds
