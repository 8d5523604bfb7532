"""``reasoning_gym:<dataset>``: all datasets ask, are answered, and score as their own scorers do."""

import random

import numpy as np
import pytest

from envmesh.env import Isolation, Recovery
from envmesh.target import TargetError, load
from envmesh_environments.reasoning_gym import MIX, dataset_names
from envmesh_environments.scorer_guard import EVALUATED_AS_EXPRESSION, EVALUATED_AS_LITERAL, guarded
from tests.integration.playing import digests_elsewhere

pytest.importorskip("reasoning_gym")
pytestmark = pytest.mark.filterwarnings(  # one of the datasets leaves a file of its own open
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

SLOW = {
    "knight_swap",
    "sokoban",
    "intermediate_integration",
    "futoshiki",
    "puzzle24",
    "sudoku",
    "quantum_lock",
}
WITHOUT_ORACLE = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
"""Datasets with many right answers, of which they name none."""


def global_generators():
    return random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tobytes()


def instance_of(target):
    return load(target).factory()


@pytest.mark.parametrize("name", dataset_names())
def test_every_dataset_asks_and_scores(name):
    generators = global_generators()
    instance = instance_of(f"reasoning_gym:{name}")
    question, info = instance.reset(seed=3)
    assert isinstance(question, str)
    assert question
    assert info == {"dataset": name, "index": 3}
    entry = instance._entry
    if name in WITHOUT_ORACLE:
        assert entry["answer"] is None
    else:
        _, reward, terminated, truncated, told = instance.step(entry["answer"])
        assert (reward, terminated, truncated) == (1.0, True, False)
        assert told == {"answer": entry["answer"]}
        assert instance.reward().value == 1.0
    instance.reset(seed=3)
    assert instance._entry["question"] == question
    assert not instance.reward().valid
    _, reward, terminated, _, _ = instance.step("I do not know")
    assert terminated
    if name != "game_of_life_halting":  # whose scorer takes anything without "true" for "false"
        assert 0 <= reward < 0.5
    assert global_generators() == generators


@pytest.mark.slow
def test_every_dataset_is_the_same_in_another_process_with_the_workers_hash_seed():
    targets = [f"reasoning_gym:{name}" for name in dataset_names() if name not in SLOW]
    assert digests_elsewhere(targets, 11) == digests_elsewhere(targets, 11)


@pytest.mark.slow
def test_what_runs_inline_does_not_depend_on_the_hash_seed():
    inline = [
        target
        for target in (f"reasoning_gym:{name}" for name in dataset_names() if name not in SLOW)
        if load(target).declaration.isolation is Isolation.INLINE
    ]
    assert len(inline) > 50
    assert digests_elsewhere(inline, 5, "1") == digests_elsewhere(inline, 5, "2")


def test_all_replay_and_the_quick_ones_run_inline():
    assert load("reasoning_gym:leg_counting").declaration.isolation is Isolation.INLINE
    assert load("reasoning_gym:sudoku").declaration.isolation is Isolation.PROCESS
    assert load("reasoning_gym:leg_counting+sudoku").declaration.isolation is Isolation.PROCESS
    assert load("reasoning_gym:leg_counting?min_animals=3").declaration.isolation is Isolation.PROCESS
    for name in dataset_names():
        if name not in SLOW:
            assert load(f"reasoning_gym:{name}").declaration.recovery is Recovery.REPLAY


def test_seeds_choose_entries_and_size_bounds_them():
    instance = instance_of("reasoning_gym:chain_sum?size=7")
    questions = [instance.reset(seed=seed)[0] for seed in range(14)]
    assert questions[:7] == questions[7:]
    assert len(set(questions[:7])) == 7
    other = instance_of("reasoning_gym:chain_sum?size=7&seed=100")
    assert other.reset(seed=0)[0] not in questions
    huge = 2**63 + 5
    assert instance.reset(seed=huge)[1]["index"] == huge % 7


def test_tasks_are_the_entries():
    definition = load("reasoning_gym:gcd?size=20")
    tasks = list((definition.tasks or list)())
    assert [task.id for task in tasks] == [str(index) for index in range(20)]
    instance = definition.factory()
    by_task = instance.reset(seed=3, options={"task": tasks[5]})
    assert by_task == instance.reset(seed=5)


def test_a_mix_asks_from_all_its_datasets():
    instance = instance_of("reasoning_gym:leg_counting+chain_sum")
    asked = {instance.reset(seed=seed)[1]["dataset"] for seed in range(30)}
    assert asked == {"leg_counting", "chain_sum"}
    mix = instance_of("reasoning_gym:mix")
    for seed in range(150):
        _, info = mix.reset(seed=seed)
        asked.add(info["dataset"])
        assert mix.step(mix._entry["answer"])[1] == 1.0
    assert asked == set(MIX)
    assert load("reasoning_gym:mix").declaration.isolation is Isolation.INLINE


def test_the_answer_may_stand_in_a_longer_text():
    instance = instance_of("reasoning_gym:chain_sum")
    instance.reset(seed=1)
    answer = instance._entry["answer"]
    assert instance.step(f"<think>no: <answer>0</answer></think> so <answer> {answer} </answer>")[1] == 1.0


def test_an_answer_that_the_scorer_cannot_read_earns_nothing_and_says_so():
    instance = instance_of("reasoning_gym:prime_factorization")
    instance.reset(seed=1)
    _, reward, terminated, _, info = instance.step("no idea")
    assert (reward, terminated) == (0.0, True)
    assert "ValueError" in info["unreadable"]


def test_an_answer_is_text():
    instance = instance_of("reasoning_gym:chain_sum")
    instance.reset(seed=1)
    with pytest.raises(TypeError, match="an answer is text"):
        instance.step(42)


@pytest.mark.parametrize("name", sorted(EVALUATED_AS_EXPRESSION | EVALUATED_AS_LITERAL))
def test_no_answer_is_run(name, tmp_path):
    """These scorers hand an answer to eval, or to SymPy's parser, which evaluates too."""
    touched = tmp_path / "touched"
    attacks = [
        f"__import__('pathlib').Path({str(touched)!r}).touch()",
        f"[open({str(touched)!r}, 'w')]",
        f"(lambda: open({str(touched)!r}, 'w'))()",
        f"[x for x in [open({str(touched)!r}, 'w')]]",
        "exit()",
        "1 + exit()",
        "9**9**9**9",
        "9^(9^(9^9))",
        "10**((99999))",
        "'a' * 10**12",
        "[0] * 10**12",
        "x.__class__",
    ]
    instance = instance_of(f"reasoning_gym:{name}")
    for attack in attacks:
        instance.reset(seed=2)
        assert instance.step(attack)[1] <= 0.05
    assert not touched.exists()


@pytest.mark.parametrize(
    "answer",
    [
        "9**(99*99*99*99*99)",
        "9**(-(99*99*99*99*99))",
        "9**(0 + 99999999)",
        "9**(x*999999999/x)",
        "9**(1//0.00000001)",
        "9**(sqrt(10**30))",
        "9**(cosh(99)//1)",
        "9^(1 + 9^9)",
        "((9**999)**999)**999",
        "(x + 1)**(99*99)",
        "rf(1, 9999999)",
        "ff(99999999, 9999999)",
        "x(9)",
    ],
)
def test_arithmetic_that_would_not_end_is_not_begun(answer):
    assert guarded("countdown", answer) != answer


def test_an_answer_that_is_no_number_is_not_the_right_one():
    instance = instance_of("reasoning_gym:complex_arithmetic")
    for answer in ("nan", "N a N", "nan + nani", "(nanj)"):
        instance.reset(seed=2)
        assert instance.step(answer)[1] == 0.0


def test_the_guard_lets_honest_answers_through():
    for answer in (
        "82 + 20*(67 - 50)",
        "-9*x**8/10 + 3*x**4/2 + C",
        "sin(x)*exp(2*x)",
        "1638*x**6*y**2 + 5",
        "x^2",
        "(x**2 + 1)**(3/2)/3 + C",
        "2*x**(21/20)/7 - x**(-2)",
        "E**(-x**2)*(2*x + 5)**12",
        "x**0.5 + 2**3**2",
        "sin(x)**2*((x + 1)**2 + 3)**(1/2)",
        "log(Abs(x)) + asin(x/2)",
    ):
        assert guarded("simple_integration", answer) == answer
    for answer in ("[[1, 2], [3, 4]]", "['A', 'B']", "ABBA", "1 2 3\n4 5 6", "_ Q _\nQ _ _", "-5", "no idea"):
        assert guarded("spiral_matrix", answer) == answer
    assert guarded("chain_sum", "exit()") == "exit()"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("reasoning_gym:leg_countin", "Did you mean 'leg_counting'"),
        ("reasoning_gym:composite", "no dataset 'composite'"),
        ("reasoning_gym:leg_counting+", "no dataset ''"),
        ("reasoning_gym:gcd+gcd", "repeats one"),
        ("reasoning_gym:leg_counting?min_animal=3", "Did you mean 'min_animals'"),
        ("reasoning_gym:leg_counting?min_animals=9&max_animals=3", "max_animals must be >= min_animals"),
        ("reasoning_gym:mix?min_animals=3", "a mix is configured by size, seed"),
        ("reasoning_gym:gcd?size=0", "size must be a whole number"),
    ],
)
def test_every_mistake_is_told(target, says):
    with pytest.raises(TargetError) as caught:
        load(target)
    assert says in str(caught.value)
