"""``envmesh check``: every fault is found, by its name, and nothing else is found fault with."""

import functools
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from envmesh.target import load
from envmesh_cli.check import Verdict, render, run_check
from tests.integration.runner_play import descendants

pytestmark = pytest.mark.spread

ROOT = str(Path(__file__).parents[2])
ALWAYS = {"CrashesLater", "IgnoresSeed", "NanReward", "NotDeterministic", "SoundDeclared"}
"""Each check takes seconds of both cores: these are run always, the others by whoever has the time."""


def cases(rows):
    """Parameters, those that take time marked so; the first two words of each name it."""
    return [
        pytest.param(*row, id=f"{row[0]}-{row[1]}", marks=[] if row[0] in ALWAYS else pytest.mark.slow)
        for row in rows
    ]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def check(name, **arguments):
    if not arguments:
        return check_plainly(name)
    target = name if ":" in name else f"tests.environments.judged:{name}"
    given = {"episodes": 4, "seconds": 6.0, "patience": 15.0, **arguments}
    return run_check(load(target, **given.pop("overrides", {})), **given)


@functools.cache
def check_plainly(name):
    """Several tests look at one report."""
    return check(name, episodes=4)


def found(report, verdict):
    return {finding.name: finding for finding in report.findings if finding.verdict is verdict}


@pytest.mark.parametrize(
    "name",
    [
        "SoundDeclared",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "SoundLater", "KeepsState", "Pair", "SharesGlobalGeneratorAndSaysSo",
                "envmesh_environments.echo:Echo", "envmesh_environments.counter:Counter",
            )
        ),
    ],
)  # fmt: skip
def test_a_sound_environment_passes(name):
    report = check(name)
    assert report.exit_status == 0
    assert not found(report, Verdict.FAIL)
    assert set(found(report, Verdict.WARN)) <= ({"bad actions"} if "Echo" in name else set())


FAULTS = [
    ("NotDeterministic", "same seed", "went another way when played again"),
    ("SharesGlobalGenerator", "neighbours", "another way than alone"),
    ("SharesModule", "neighbours", "another way than alone"),
    ("OrderedByHash", "another process", "PYTHONHASHSEED"),
    ("KnowsItsProcess", "another process", "in a fresh process, the first at its reset"),
    ("NanReward", "rewards", "nan at observation 6"),
    ("OutsideItsSpace", "observations", "outside of the declared space"),
    ("UnfitInfo", "infos", "no form on the wire"),
    ("ExitsAtBadAction", "bad actions", "sys.exit('bad action')"),
    ("LeaksMemory", "leaks", "KiB an episode stay in memory"),
    ("LeaksFiles", "leaks", "more file descriptors"),
    ("LeaksThreads", "leaks", "more threads"),
    ("BlocksInline", "pace", "and inline may for 1 ms"),
    ("BlocksInlineLater", "pace", "and inline may for 1 ms"),
    ("RaisesLater", "plays", "raised LookupError: no such door (judged.py, line"),
    ("ExitsLater", "plays", "called sys.exit('enough') (judged.py, line"),
    ("CrashesLater", "plays", "ended its process with SIGSEGV (judged.py, line"),
    ("CrashesInTheLongRun", "leaks", "ended its process with SIGABRT (judged.py, line"),
    ("ReturnsGarbage", "plays", "a tuple of 3, not (observation, reward"),
    ("ShowsObjects", "plays", "without a form on the wire"),
    ("CannotBeMade", "plays", "raised OSError: no display (judged.py, line"),
    ("ForgetsItsGenerator", "checkpoints", "the future differs at step"),
    ("DisturbedByItsCheckpoint", "checkpoints", "the episode itself went another way"),
    ("GradingChangesIt", "grades", "goes another way"),
    ("GradesNan", "grades", "part is nan"),
    ("RepeatsATask", "tasks", "1 of 2 tasks repeat"),
    ("PairOfStrangers", "agents", "'right' is due and is none of the declared agents"),
]


@pytest.mark.parametrize(("name", "finding", "says"), cases(FAULTS))
def test_every_fault_is_found_and_nothing_else(name, finding, says):
    report = check(name)
    failed = found(report, Verdict.FAIL)
    assert finding in failed, failed or report.findings
    assert says in failed[finding].evidence
    assert failed[finding].advice
    allowed = {"SharesModule": {"another process"}, "PairOfStrangers": {"observations"}}
    assert set(failed) - {finding} <= allowed.get(name, set())
    assert report.exit_status == 1


WARNINGS = [
    ("Sound", "declaration", "It declares nothing", "recovery='replay', isolation='inline'"),
    ("Undeclared", "bad actions", "wrong values made it raise", "Declare action_space"),
    ("Undeclared", "declaration", "It declares nothing", "observation_space=…, action_space=…"),
    (
        "SharesGlobalGenerator",
        "global generators",
        "reset() of random, step() of random",
        "global_random=True",
    ),
    ("OrderedByHashInWorker", "another process", "workers have one hash seed", "sort it"),
    (
        "IgnoresSeed",
        "same seed",
        "went another way when played again",
        "takes a seed and does not keep to it",
    ),
    ("AlwaysTheSame", "different seeds", "5 seeds gave one and the same episode", "take it from the seed"),
    ("NeverEnds", "plays", "none ended", "a limit of steps"),
    ("HalfReset", "reset again", "has been used gives another episode", "begin everything anew"),
    ("ComputesInThread", "pace", "of it computing", "isolation='process'"),
    ("NearItsLimit", "pace", "close to its limits", "Raise limits"),
    ("PrintsMuch", "output", "KiB an episode", "Print less"),
]


@pytest.mark.parametrize(("name", "finding", "says", "advises"), cases(WARNINGS))
def test_what_will_cost_somebody_is_told(name, finding, says, advises):
    report = check(name)
    warned = found(report, Verdict.WARN)
    assert finding in warned, report.findings
    assert says in warned[finding].evidence
    assert advises in warned[finding].advice


@pytest.mark.slow
def test_what_cannot_be_judged_is_skipped_with_its_reason():
    skipped = found(check("TakesNoSeed"), Verdict.SKIP)
    assert "takes no seed" in skipped["different seeds"].evidence
    skipped = found(check("Undeclared"), Verdict.SKIP)
    assert "No observation_space is declared" in skipped["observations"].evidence


@pytest.mark.slow
def test_grades_and_tasks_are_looked_at():
    passed = found(check("Graded"), Verdict.PASS)
    assert "it changes nothing" in passed["grades"].evidence
    assert passed["tasks"].evidence.startswith("2 tasks")


@pytest.mark.slow
def test_a_cache_that_fills_up_is_no_leak():
    assert found(check("FillsACache"), Verdict.PASS)["leaks"]


def test_an_environment_that_hangs_does_not_hang_the_check():
    report = check("HangsLater", seconds=5.0, patience=5.0)
    failed = found(report, Verdict.FAIL)
    assert "did not come back (judged.py, line" in failed["plays"].evidence
    assert "give the check more --seconds" in failed["plays"].advice


@pytest.mark.slow
def test_options_laid_over_the_declaration_are_judged():
    report = check("NotDeterministic", overrides={"recovery": "none", "isolation": "process"})
    assert report.exit_status == 0
    assert "same seed" in found(report, Verdict.WARN)
    assert report.declaration["recovery"] == "none"


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("Enumerated", "samples of its action space"),
        pytest.param("PatternedWithExamples", "its example_actions", marks=pytest.mark.slow),
    ],
)
def test_actions_that_a_schema_describes_are_found(name, origin):
    report = check(f"tests.environments.schemas:{name}")
    assert not found(report, Verdict.FAIL)
    assert f"acting by {origin}" in found(report, Verdict.PASS)["plays"].evidence


@pytest.mark.parametrize(
    ("name", "verdict", "evidence", "advice"),
    [
        ("Patterned", Verdict.SKIP, "is in it; the last, at $.code: ", "Give it example_actions"),
        (
            "BrokenExamples",
            Verdict.FAIL,
            "example_actions() raised TypeError: 'int'",
            "only where it is broken",
        ),
    ],
)
def test_what_could_not_be_played_is_not_called_fit(name, verdict, evidence, advice):
    report = check(f"tests.environments.schemas:{name}")
    (finding,) = report.findings
    assert (finding.name, finding.verdict) == ("plays", verdict)
    assert evidence in finding.evidence
    assert advice in finding.advice
    assert report.exit_status == 1
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(report))
    assert (
        console.export_text()
        .rstrip()
        .endswith("not judged" if verdict is Verdict.SKIP else "do not train on it yet")
    )


def test_examples_outside_of_their_own_space_are_the_fault_of_the_environment():
    report = check("tests.environments.schemas:WrongExamples")
    assert "'abc' does not match" in found(report, Verdict.FAIL)["plays"].evidence


@pytest.mark.slow
def test_given_actions_are_taken():
    report = check("Undeclared", actions=[1, 2])
    assert "acting by the given actions" in next(f for f in report.findings if f.name == "plays").evidence


def test_a_report_is_for_people_and_for_programs():
    heard: list[str] = []
    report = check("NanReward", progress=heard.append)
    assert heard[:3] == ["play", "bad actions", "extras"]
    told = json.loads(report.to_json())
    assert told["verdicts"]["fail"] == 1
    assert told["target"] == "tests.environments.judged:NanReward"
    assert {finding["name"] for finding in told["findings"]} >= {
        "plays",
        "rewards",
        "leaks",
        "pace",
        "declaration",
    }
    assert set(told["findings"][0]) == {"name", "verdict", "evidence", "advice"}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(report))
    text = console.export_text()
    assert "do not train on it yet" in text
    assert "nan at observation 6" in text


def test_the_check_leaves_no_process_behind():
    others = descendants()
    check("SoundDeclared")
    assert descendants() <= others
