"""What ``envmesh check`` measures in its child, asked for in this process: environments as a host would play them."""

from __future__ import annotations

from typing import Any

import pytest

from envmesh.env import Definition, RewardResult
from envmesh.target import load
from envmesh_cli.check.child import MEASUREMENTS
from envmesh_cli.check.judge_conduct import judge_extras, judge_play
from envmesh_cli.check.judge_replay import (
    judge_checkpoints,
    judge_different_seeds,
    judge_neighbours,
    judge_same_seed,
)
from envmesh_cli.check.measure_play import Bench, measure_extras, measure_play
from envmesh_cli.check.measure_replay import (
    measure_checkpoints,
    measure_neighbours,
    measure_replays,
    measure_restores,
    measure_traces,
)
from envmesh_cli.check.report import Finding, Verdict
from envmesh_cli.check.stage import EnvironmentBroke, Stage
from tests.environments import deceptive


def definition(name: str, **declared: Any) -> Definition:
    return load(name if ":" in name else f"tests.environments.deceptive:{name}", **declared)


def bench(name: str, *, seconds: float = 60.0, **declared: Any) -> Bench:
    return Bench(definition(name, **declared), seed=0, steps=30, pool=[], soft_seconds=seconds)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.parametrize(
    ("name", "declared", "says"),
    [
        ("DrawsInThreads", {}, "it declares global_random, and only worker processes"),
        ("RaisesInLoop", {"global_random": True, "isolation": "inline"}, "it declares global_random"),
        ("SpaceOfNobody", {}, "looking at the environment raised"),
        ("tests.environments.judged:Sound", {"recovery": "state"}, "has no checkpoint() and restore()"),
    ],
)
def test_what_a_host_refuses_to_serve_is_not_played(name: str, declared: dict[str, Any], says: str):
    with pytest.raises(EnvironmentBroke, match=r"^a host refuses it: ") as caught:
        measure_play(bench(name, **declared), 1)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [("GradesWithText", "not str"), ("GradesByNumber", "bad argument type"), ("GradesLater", "not Later")],
)
def test_a_grade_that_a_host_refuses_is_none(name: str, says: str):
    measured = bench(name)
    grades = by_name(judge_extras(measure_extras(measured), measured.definition.declaration))["grades"]
    assert grades.verdict is Verdict.FAIL
    assert says in grades.evidence


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("CannotListTasks", "tasks() raised FileNotFoundError: tasks.jsonl (deceptive.py, line"),
        ("ListsPlainTasks", "tasks() listed dict {'id': 'a', 'prompt': 'x'}, which is not an envmesh.Task"),
        ("CannotBeginItsTask", "reset() raised LookupError: unknown (deceptive.py, line"),
    ],
)
def test_tasks_that_cannot_be_listed_or_begun_are_the_fault_of_the_environment(name: str, says: str):
    measured = bench(name)
    tasks = by_name(judge_extras(measure_extras(measured), measured.definition.declaration))["tasks"]
    assert tasks.verdict is Verdict.FAIL
    assert tasks.evidence.startswith(says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("RaisesExamples", r"example_actions\(\) raised KeyError: 'no examples' \(deceptive.py, line"),
        ("RaisesInLoop", r"step\(\) raised LookupError: no such door \(deceptive.py, line"),
    ],
)
def test_what_an_author_s_code_raises_is_told_as_it_was_raised(name: str, says: str):
    with pytest.raises(EnvironmentBroke, match=says):
        measure_play(bench(name), 1)


def beside(name: str) -> Finding:
    measured = bench(name)
    traces = measure_traces(measured, [0, 1, 2])["traces"]
    assert measure_replays(measured, traces)["differs"] == [None] * 3
    found = measure_neighbours(measured, traces)
    return judge_neighbours(
        found["differs"],
        measured.definition.declaration,
        repeatable=True,
        swapped=found["swapped"],
        overlapping=found["overlapping"],
    )


@pytest.mark.parametrize("name", ["NotReentrant", "NotThreadSafe", "ClosesForAll", "ClosesForAllInThreads"])
def test_neighbours_overlap_as_on_a_host_and_one_of_them_is_closed(name: str):
    assert beside(name).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("name", "turns"),
    [
        ("tests.environments.judged:SoundLater", "at once"),
        ("SoundInThreads", "at once"),
        ("tests.environments.judged:SoundDeclared", "in turns"),
        ("DrawsUnseeded", "each with its own state of the global generators"),
    ],
)
def test_neighbours_that_keep_to_themselves_pass(name: str, turns: str):
    found = beside(name)
    assert found.verdict is Verdict.PASS
    assert turns in found.evidence


def given_to(measure: str) -> dict[str, Any]:
    """What a measurement is asked beside its time, of episodes that were recorded with enough of it."""
    plenty = bench("Counted")
    traces = measure_traces(plenty, [0, 1])["traces"]
    saved = measure_checkpoints(plenty, traces[0], True)["checkpoints"]
    arguments: dict[str, dict[str, Any]] = {
        "play": {"episodes": 20},
        "leaks": {"episodes": 20},
        "pace": {"episodes": 20},
        "traces": {"seeds": [0, 1]},
        "replays": {"traces": traces},
        "neighbours": {"traces": traces},
        "checkpoints": {"trace": traces[0], "repeatable": True},
        "restores": {"trace": traces[0], "checkpoints": saved, "repeatable": True},
    }
    return arguments.get(measure, {})


@pytest.mark.parametrize("measure", list(MEASUREMENTS))
def test_where_the_time_is_spent_no_measurement_waits_for_more_than_a_few_commands(measure: str):
    """So that an environment which is only slow is not taken for one that hangs."""
    arguments = given_to(measure)
    deceptive.COMMANDS.clear()
    MEASUREMENTS[measure](bench("Counted", seconds=-1.0), **arguments)
    assert len(deceptive.COMMANDS) <= 6, deceptive.COMMANDS


def test_an_episode_that_the_time_cut_off_is_not_blamed_for_not_ending():
    measured = bench("Counted", seconds=-1.0)
    found = by_name(judge_play(measure_play(measured, 20), measured.definition.declaration))
    assert found["plays"].verdict is Verdict.SKIP
    assert found["reset again"].verdict is Verdict.SKIP


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("ReusedWithRemains", Verdict.FAIL), ("tests.environments.judged:HalfReset", Verdict.WARN)],
)
def test_what_remains_after_a_reset_is_a_fault_where_instances_are_reused(name: str, verdict: Verdict):
    measured = bench(name)
    found = by_name(judge_play(measure_play(measured, 2), measured.definition.declaration))["reset again"]
    assert found.verdict is verdict
    assert ("reuse" in found.advice) == (verdict is Verdict.FAIL)


def test_what_an_author_says_must_be_equal_is_all_that_is_compared():
    stage = Stage(definition("tests.environments.particular:SaysWhatMustBeEqual"))
    first, again = stage.reset(0), stage.reset(0)
    assert first.observation != again.observation
    assert first.digest == again.digest != stage.step(1).digest
    with pytest.raises(EnvironmentBroke, match=r"digest\(\) raised RuntimeError: unlucky"):
        stage.step(6)


def test_one_method_that_waits_is_awaited_beside_others_that_do_not():
    stage = Stage(definition("tests.environments.particular:Mixed"))
    stage.reset(0)
    assert isinstance(stage.call("reward"), float | RewardResult)
    stage.close()


def test_global_generators_are_seeded_as_a_worker_seeds_them():
    measured = bench("DrawsUnseeded")
    traces = measure_traces(measured, [0, 1])["traces"]
    again = measure_replays(measured, traces)
    declaration = measured.definition.declaration
    assert judge_same_seed(again["differs"], again["steps"], declaration, seeded=True).verdict is Verdict.PASS
    assert measure_extras(measured)["generators"] == [
        "making it of random", "step() of numpy.random", "step() of random",
    ]  # fmt: skip
    unused = measure_extras(bench("tests.environments.judged:Sound", global_random=True))
    assert unused["generators"] == []


def restored(name: str, *, repeatable: bool) -> Finding:
    measured = bench(name)
    (trace,) = measure_traces(measured, [0])["traces"]
    taken = measure_checkpoints(measured, trace, repeatable)
    found = measure_restores(measured, trace, taken["checkpoints"], repeatable)
    return judge_checkpoints(taken, found, found, measured.definition.declaration, repeatable=repeatable)


def test_the_checkpoint_of_what_cannot_be_repeated_is_not_blamed_for_it():
    found = restored("RollsOthersDice", repeatable=False)
    assert found.verdict is Verdict.PASS
    assert "cannot be compared" in found.evidence


def test_what_a_grade_needs_belongs_into_the_checkpoint():
    found = restored("ForgetsItsGrade", repeatable=True)
    assert found.verdict is Verdict.FAIL
    assert "it is graded otherwise than before" in found.evidence


@pytest.mark.parametrize(
    ("digests", "verdict"),
    [
        ([["a", "b", "c"], ["a", "b"], ["a"]], Verdict.WARN),
        ([["a", "b", "c"], ["a", "b"], ["a", "x"]], Verdict.PASS),
        ([["a", "b", "c"]], Verdict.SKIP),
    ],
)
def test_episodes_are_different_only_where_both_were_played(digests: list[list[str]], verdict: Verdict):
    traces = [{"digests": each} for each in digests]
    assert judge_different_seeds(traces, seeded=True).verdict is verdict
