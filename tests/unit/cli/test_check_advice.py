"""What ``envmesh check`` advises to declare: what it advises is true when it is declared."""

from __future__ import annotations

from typing import Any

import pytest

from envmesh.env import Declaration, Isolation, Recovery
from envmesh.target import load
from envmesh_cli.check.advise import judge_declaration
from envmesh_cli.check.judge_cost import judge_pace
from envmesh_cli.check.judge_replay import judge_checkpoints, judge_neighbours, judge_same_seed
from envmesh_cli.check.measure_cost import measure_pace
from envmesh_cli.check.measure_play import Bench
from envmesh_cli.check.report import Finding, Verdict

Figures = dict[str, dict[str, float]]


def pace(*, step: float = 1e-5, reset: float = 1e-5, grade: float = 1e-5) -> Figures:
    each = {"step": step, "blocked": step, "processor": step, "reset": reset, "grade": grade}
    return {name: dict.fromkeys(("p50", "p90", "p99", "max"), seconds) for name, seconds in each.items()}


def advice(*, measured: Figures | None = None, checkpoints: bool = False, **verdicts: Verdict) -> str:
    """For an environment that declares nothing, and passes all but what is given."""
    names = ("same_seed", "another_process", "neighbours")
    findings = [Finding(name.replace("_", " "), verdicts.get(name, Verdict.PASS), "") for name in names]
    return judge_declaration(
        Declaration(),
        findings,
        pace=measured or pace(),
        uses_generators=False,
        spaces_missing=(),
        checkpoints=checkpoints,
    ).advice


def test_what_does_not_bear_neighbours_is_advised_to_have_none():
    said = advice(neighbours=Verdict.WARN)
    assert "(recovery='replay', episodes_per_worker=1)" in said
    assert "share a worker" not in said
    followed = Declaration(recovery=Recovery.REPLAY, episodes_per_worker=1)
    found = judge_neighbours([1, 1], followed, repeatable=True, swapped=False, overlapping=False)
    assert found.verdict is Verdict.WARN


def test_what_bears_neighbours_is_told_that_it_may_have_them():
    assert "up to 64 share a worker" in advice()


def test_what_does_not_repeat_itself_is_advised_to_say_so():
    said = advice(same_seed=Verdict.WARN, neighbours=Verdict.SKIP, checkpoints=True)
    assert "recovery='state', deterministic=False, episodes_per_worker=1" in said
    followed = Declaration(recovery=Recovery.STATE, deterministic=False, episodes_per_worker=1)
    assert judge_same_seed([1], 1, followed, seeded=True).verdict is Verdict.WARN
    saved: dict[str, Any] = {"at": 0, "bytes": 1, "seconds": 0.0, "disturbed": None}
    restored: dict[str, Any] = {"differs": [None], "regraded": [False]}
    found = judge_checkpoints({"checkpoints": [saved]}, restored, restored, followed, repeatable=False)
    assert found.verdict is Verdict.PASS


@pytest.mark.parametrize("slow", ["step", "reset", "grade"])
def test_what_holds_the_loop_up_is_not_advised_to_run_in_it(slow: str):
    measured = pace(**{slow: 0.2})
    assert "isolation='inline'" in advice()
    assert "isolation='inline'" not in advice(measured=measured)
    followed = judge_pace(measured, Declaration(isolation=Isolation.INLINE), asynchronous=False)
    assert followed.verdict is not Verdict.PASS
    assert (
        judge_pace(pace(), Declaration(isolation=Isolation.INLINE), asynchronous=False).verdict
        is Verdict.PASS
    )


@pytest.mark.parametrize(("name", "graded"), [("Graded", True), ("Sound", False)])
def test_the_pace_of_grades_is_measured(name: str, graded: bool):
    bench = Bench(load(f"tests.environments.judged:{name}"), seed=0, steps=30, pool=[], soft_seconds=60.0)
    assert (measure_pace(bench, 1)["grade"]["max"] > 0) is graded
