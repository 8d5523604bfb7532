"""``reasoning_gym:<dataset>``: every dataset of reasoning_gym as an episode of one step, with its verified reward.

* ``reasoning_gym:leg_counting``: one dataset. ``reasoning_gym:leg_counting?min_animals=5&max_animals=20``: with its
  configuration's fields; ``size`` (10,000) is how many entries there are, ``seed`` (0) which ones.
* ``reasoning_gym:leg_counting+chain_sum``: a mix in equal parts. ``reasoning_gym:mix``: a dozen quick ones.

``reset`` gives the question as text; the episode's seed modulo ``size`` chooses the entry, or a task does, whose id is
the entry's index. ``step(answer)`` gives the score of the dataset's own scorer and ends the episode; in a longer text,
the answer is what stands last between ``<answer>`` and ``</answer>``. An answer that makes the scorer raise earns 0,
with ``unreadable`` in the info. What a scorer would evaluate as Python is looked at first (``scorer_guard``).

Entries depend on seed and index alone, so the class is REPLAY. Where a dataset draws from global generators, they are
seeded for the entry and put back. Datasets whose entries take longer than half a millisecond to make or to score
run in worker processes, and so do those that depend on the order of sets (workers have one hash seed).
"""

from __future__ import annotations

import contextlib
import functools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from envmesh.build import build_digest
from envmesh.env import Declaration, Definition, Isolation, Recovery, RewardResult, Task
from envmesh.target import TargetError, missing_extra, split_arguments, suggestion
from envmesh_environments.scorer_guard import guarded

__all__ = ["MIX", "Question", "dataset_names", "load"]

MIX = (
    "basic_arithmetic", "calendar_arithmetic", "chain_sum", "coin_flip", "family_relationships", "gcd",
    "leg_counting", "letter_counting", "number_sequence", "simple_geometry", "syllogism", "word_sorting",
)  # fmt: skip
"""What ``reasoning_gym:mix`` is made of, in equal parts."""

_QUICK = frozenset(
    re.findall(
        r"\w+",
        """
        ab acre aiw arc_1d base_conversion basic_arithmetic binary_alternation bitwise_arithmetic boxnet
        caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation
        complex_arithmetic count_bits count_primes course_schedule cryptarithm decimal_arithmetic
        decimal_chain_sum dice emoji_mystery family_relationships fraction_simplification gcd graph_color
        group_anagrams gsm_symbolic largest_island lcm leg_counting letter_counting letter_jumble
        list_functions manipulate_matrix maze modulo_grid needle_haystack number_filtering number_format
        number_sequence number_sorting palindrome_generation palindrome_partitioning path_star
        power_function prime_factorization products propositional_logic rotate_matrix self_reference
        sentence_reordering shortest_path simple_geometry spell_backward string_manipulation
        string_splitting string_synthesis survo syllogism time_intervals tower_of_hanoi tsumego
        word_sequence_reversal word_sorting
        """,
    )
)
"""Datasets of version 0.1.25 measured to make and score an entry in under half a millisecond, 99 times in 100."""
_GLOBAL_RANDOM = frozenset({"codeio", "list_functions", "pool_matrix"})
"""Datasets that draw from the global generators, or seed them."""
_MADE_AT_ONCE = frozenset({"acre"})
"""Datasets that make all their entries when they are created."""
_SIZE = 10_000
_SIZE_MADE_AT_ONCE = 500
_TEXT = {"type": "string"}


def load(rest: str) -> Definition:
    """Define a dataset or a mix: ``name[+name…][?field=value&…]``.

    Raises:
        TargetError: no such dataset, a configuration it does not take, or reasoning_gym is not installed.
    """
    text, arguments = split_arguments(rest)
    known = dataset_names()
    names = MIX if text == "mix" else tuple(text.split("+"))
    for name in names:
        if name not in known:
            near = suggestion(name, [*known, "mix"])
            raise TargetError(
                f"reasoning_gym has no dataset {name!r}.{near} It has {len(known)}: chain_sum, gcd, …, or mix"
            )
    if len(set(names)) != len(names):
        raise TargetError(f"a mix names each dataset once; {text!r} repeats one")
    made_at_once = bool(_MADE_AT_ONCE.intersection(names))
    size = arguments.setdefault("size", _SIZE_MADE_AT_ONCE if made_at_once else _SIZE)
    arguments.setdefault("seed", 0)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise TargetError(f"size must be a whole number of at least 1; got {size!r}")
    source = Source(names, tuple(sorted(arguments.items())))
    source.check()
    quick = _QUICK.issuperset(names) and set(arguments) == {"size", "seed"}
    return Definition(
        target=f"reasoning_gym:{rest}",
        name=f"reasoning_gym:{rest}",
        declaration=Declaration(
            recovery=Recovery.REPLAY,
            isolation=Isolation.INLINE if quick else Isolation.PROCESS,
            observation_space=_TEXT,
            action_space=_TEXT,
            seeded=True,
            declared=True,
        ),
        factory=functools.partial(Question, source),
        tasks=source.tasks,
        build=build_digest(
            distributions=("envmesh", "reasoning-gym", "sympy", "numpy"),
            parts=(*names, repr(sorted(arguments.items()))),
        ),
    )


def dataset_names() -> tuple[str, ...]:
    """The datasets that are installed, sorted.

    Raises:
        TargetError: reasoning_gym is not installed.
    """
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise missing_extra("reasoning-gym", "environments", error) from error
    return tuple(sorted(name for name in DATASETS if name != "composite"))


@dataclass(frozen=True, slots=True)
class Source:
    """Where entries come from: datasets by name and their configuration; made once a process."""

    names: tuple[str, ...]
    arguments: tuple[tuple[str, Any], ...]

    @property
    def size(self) -> int:
        """How many entries there are."""
        return int(dict(self.arguments)["size"])

    def entry(self, index: int) -> dict[str, Any]:
        """The entry at an index: its question, answer and metadata."""
        dataset = _dataset(self.names, self.arguments)
        with _seeded_globals(index) if _GLOBAL_RANDOM.intersection(self.names) else contextlib.nullcontext():
            entry: dict[str, Any] = dataset[index]
        return entry

    def score(self, answer: str, entry: dict[str, Any]) -> float:
        """The dataset's own score of an answer. Raises what its scorer raises."""
        return float(
            _dataset(self.names, self.arguments).score_answer(guarded(self.name_of(entry), answer), entry)
        )

    def name_of(self, entry: dict[str, Any]) -> str:
        """The dataset that an entry is of."""
        return self.names[0] if len(self.names) == 1 else str(entry["metadata"]["source_dataset"])

    def tasks(self) -> Iterator[Task]:
        """One task an entry; the prompt is made by ``reset``, for making all of them can take hours."""
        return (Task(id=str(index)) for index in range(self.size))

    def check(self) -> None:
        """Make the dataset.

        Raises:
            TargetError: its configuration is refused.
        """
        from reasoning_gym.factory import DATASETS

        what = "+".join(self.names)
        taken = ["size", "seed"]
        if len(self.names) == 1:
            taken = [field.name for field in fields(DATASETS[what][1])]
        for key, _ in self.arguments:
            if key not in taken:
                whose = f"{what} is configured by" if len(self.names) == 1 else "a mix is configured by"
                raise TargetError(
                    f"{key!r} configures nothing.{suggestion(key, taken)} ({whose} {', '.join(taken)}"
                )
        try:
            _dataset(self.names, self.arguments)
        except (AssertionError, TypeError, ValueError, AttributeError) as error:
            raise TargetError(
                f"{what} refuses its configuration: {str(error) or type(error).__name__}"
            ) from error


class Question:
    """One question, one answer, and the dataset's verified score of it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._entry: dict[str, Any] | None = None
        self._grade: RewardResult | None = None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Ask the question that the task names, or the seed chooses."""
        task = (options or {}).get("task")
        if task is not None:
            index = int(task.id)
        else:
            index = (random.SystemRandom().randrange(2**32) if seed is None else seed) % self._source.size
        self._grade = None
        self._entry = self._source.entry(index)
        return self._entry["question"], {"dataset": self._source.name_of(self._entry), "index": index}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score the answer and end the episode."""
        if self._entry is None:
            raise RuntimeError("step() before reset()")
        if not isinstance(action, str):
            raise TypeError(f"an answer is text, not {type(action).__name__}")
        info: dict[str, Any] = {}
        oracle = self._entry.get("answer")
        if isinstance(oracle, str):
            info["answer"] = oracle
        try:
            value = self._source.score(_answer_in(action), self._entry)
        except Exception as error:
            value, info["unreadable"] = 0.0, f"{type(error).__name__}: {error}"[:200]
        self._grade = RewardResult(value=value, valid=True)
        return "", value, True, False, info

    def reward(self) -> RewardResult:
        """The score of the answer, once there is one."""
        return self._grade or RewardResult(value=0.0, valid=False, rationale="no answer has been given")


def _answer_in(text: str) -> str:
    if "</answer>" not in text:
        return text
    from reasoning_gym.utils import extract_answer

    found = extract_answer(text)
    return text if found is None else str(found)


@functools.lru_cache(maxsize=32)
def _dataset(names: tuple[str, ...], arguments: tuple[tuple[str, Any], ...]) -> Any:
    import reasoning_gym
    from reasoning_gym.composite import DatasetSpec

    if len(names) == 1:
        return reasoning_gym.create_dataset(names[0], **dict(arguments))
    parts = [DatasetSpec(name=name, weight=1.0, config={}) for name in names]
    return reasoning_gym.create_dataset("composite", datasets=parts, **dict(arguments))


@contextlib.contextmanager
def _seeded_globals(index: int) -> Iterator[None]:
    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(index)
    np.random.seed(index % 2**32)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
