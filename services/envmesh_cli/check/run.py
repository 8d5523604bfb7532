"""The order of a check: what is measured, in which process, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from envmesh.env import Definition, Recovery
from envmesh_cli.check import judge_conduct, judge_cost, judge_replay
from envmesh_cli.check.advise import judge_declaration
from envmesh_cli.check.report import Finding, Report, Verdict
from envmesh_cli.check.subject import Answer, Subject

__all__ = ["run_check"]

_SHARES = {
    "play": 0.15,
    "bad actions": 0.05,
    "extras": 0.05,
    "traces": 0.05,
    "replays": 0.05,
    "neighbours": 0.05,
    "checkpoints": 0.05,
    "restores": 0.05,
    "leaks": 0.25,
    "pace": 0.1,
}
"""Each measurement's part of the time."""
_SEEDS = 5
_LEAK_EPISODES = 20
"""Short episodes to look for leaks, for each episode that is played."""


def run_check(
    definition: Definition,
    *,
    episodes: int = 20,
    seed: int = 0,
    steps: int = 200,
    seconds: float = 60.0,
    patience: float = 20.0,
    actions: Sequence[Any] = (),
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Judge an environment, all of whose code runs in child processes.

    ``episodes`` are played of at most ``steps`` steps each, beginning with ``seed``. ``seconds`` is about how long it
    may take in all; a measurement that goes on for ``patience`` seconds longer than its share counts as hung, so that
    the check itself always ends. ``actions`` are chosen from at random, where given. ``progress`` hears what is
    measured next.
    """
    began = time.monotonic()
    checking = _Check(definition, episodes, seed, steps, seconds, patience, actions, progress or _nothing)
    with checking.subject:
        checking.conduct()
        if checking.play is not None:
            checking.replays()
            checking.cost()
            checking.declaration()
    return Report(
        target=definition.target,
        name=definition.name,
        version=definition.declaration.version,
        build=definition.build,
        declaration=_declared(definition),
        findings=tuple(checking.findings),
        seconds=time.monotonic() - began,
    )


@dataclass
class _Check:
    definition: Definition
    episodes: int
    seed: int
    steps: int
    seconds: float
    patience: float
    actions: Sequence[Any]
    progress: Callable[[str], None]
    findings: list[Finding] = field(default_factory=list)
    play: dict[str, Any] | None = None
    generators: bool = False
    pace: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.subject = self._subject("0")

    def conduct(self) -> None:
        """Plain episodes, bad actions, optional methods."""
        declaration = self.definition.declaration
        answer = self._ask(self.subject, "play", episodes=self.episodes)
        if not answer.ok:
            self._failed("plays", answer)
            return
        self.play = answer.result
        self.findings += judge_conduct.judge_play(answer.result, declaration)
        self.findings += judge_conduct.judge_output(answer.printed, answer.result["episodes"])
        answer = self._ask(self.subject, "bad actions")
        if answer.ok:
            self.findings.append(judge_conduct.judge_bad_actions(answer.result))
        else:
            self._failed("bad actions", answer)
        answer = self._ask(self.subject, "extras")
        if answer.ok:
            self.generators = bool(answer.result["generators"])
            self.findings += judge_conduct.judge_extras(answer.result, declaration)
        else:
            self._failed("optional methods", answer)

    def replays(self) -> None:
        """The same episodes again: alone, beside neighbours, in other processes, from checkpoints."""
        assert self.play is not None
        declaration, seeded = self.definition.declaration, bool(self.play["seeded"])
        answer = self._ask(self.subject, "traces", seeds=list(range(self.seed, self.seed + _SEEDS)))
        if not answer.ok:
            self._failed("same seed", answer)
            return
        traces = answer.result["traces"]
        again = self._ask(self.subject, "replays", traces=traces)
        repeatable = again.ok and all(index is None for index in again.result["differs"])
        if again.ok:
            same = judge_replay.judge_same_seed(
                again.result["differs"], again.result["steps"], declaration, seeded=seeded
            )
            self.findings.append(same)
        else:
            self._failed("same seed", again)
        self.findings.append(judge_replay.judge_different_seeds(traces, seeded=seeded))
        beside = self._ask(self.subject, "neighbours", traces=traces)
        if beside.ok:
            self.findings.append(
                judge_replay.judge_neighbours(
                    beside.result["differs"],
                    declaration,
                    repeatable=repeatable,
                    swapped=beside.result["swapped"],
                    overlapping=beside.result["overlapping"],
                )
            )
        else:
            self._failed("neighbours", beside)
        self._elsewhere(traces, repeatable=repeatable)

    def _elsewhere(self, traces: list[dict[str, Any]], *, repeatable: bool) -> None:
        declaration = self.definition.declaration
        taken = None
        if declaration.recovery is Recovery.STATE:
            taken = self._ask(self.subject, "checkpoints", trace=traces[0], repeatable=repeatable)
            if not taken.ok:
                self._failed("checkpoints", taken)
        with self._subject("0") as fresh, self._subject("1") as otherwise:
            same_hashing = self._ask(fresh, "replays", traces=traces)
            other_hashing = self._ask(otherwise, "replays", traces=traces)
            if same_hashing.ok and other_hashing.ok:
                self.findings.append(
                    judge_replay.judge_another_process(
                        same_hashing.result["differs"],
                        other_hashing.result["differs"],
                        declaration,
                        repeatable=repeatable,
                    )
                )
            else:
                self._failed("another process", same_hashing if not same_hashing.ok else other_hashing)
            if taken is not None and taken.ok:
                self._restored(traces[0], taken, fresh, repeatable=repeatable)

    def _restored(self, trace: dict[str, Any], taken: Answer, fresh: Subject, *, repeatable: bool) -> None:
        given = {"trace": trace, "checkpoints": taken.result["checkpoints"], "repeatable": repeatable}
        here = self._ask(self.subject, "restores", **given)
        elsewhere = self._ask(fresh, "restores", **given)
        for answer in (here, elsewhere):
            if not answer.ok:
                self._failed("checkpoints", answer)
                return
        self.findings.append(
            judge_replay.judge_checkpoints(
                taken.result,
                here.result,
                elsewhere.result,
                self.definition.declaration,
                repeatable=repeatable,
            )
        )

    def cost(self) -> None:
        """What it leaves behind, and its pace."""
        assert self.play is not None
        answer = self._ask(self.subject, "leaks", episodes=self.episodes * _LEAK_EPISODES)
        if answer.ok:
            self.findings.append(judge_cost.judge_leaks(answer.result))
        else:
            self._failed("leaks", answer)
        answer = self._ask(self.subject, "pace", episodes=self.episodes)
        if answer.ok:
            self.pace = answer.result
            asynchronous = bool(self.play["asynchronous"])
            pace = judge_cost.judge_pace(
                answer.result, self.definition.declaration, asynchronous=asynchronous
            )
            self.findings.append(pace)
        else:
            self._failed("pace", answer)

    def declaration(self) -> None:
        """What it could declare."""
        assert self.play is not None
        factory = self.definition.factory
        checkpoints = callable(getattr(factory, "checkpoint", None)) and callable(
            getattr(factory, "restore", None)
        )
        self.findings.append(
            judge_declaration(
                self.definition.declaration,
                self.findings,
                pace=self.pace,
                uses_generators=self.generators,
                spaces_missing=tuple(
                    space for space in ("observation_space", "action_space") if not self.play[space]
                ),
                checkpoints=checkpoints,
            )
        )

    def _subject(self, hash_seed: str) -> Subject:
        return Subject(
            self.definition, seed=self.seed, steps=self.steps, pool=self.actions, hash_seed=hash_seed
        )

    def _ask(self, subject: Subject, measure: str, **arguments: Any) -> Answer:
        self.progress(measure)
        return subject.ask(
            measure, seconds=self.seconds * _SHARES[measure], patience=self.patience, **arguments
        )

    def _failed(self, name: str, answer: Answer) -> None:
        if answer.no_action:
            advice = "Give it example_actions, a list or a method that gives one: the check then chooses from these."
            self.findings.append(Finding(name, Verdict.SKIP, _sentence(answer.failure), advice))
            return
        if answer.unexpected:
            self.findings.append(
                Finding(name, Verdict.SKIP, f"The check itself went wrong: {answer.failure}.")
            )
            return
        advice = "It would take its host's process, and its neighbours, with it: declare isolation='process'."
        if answer.hung:
            advice = "If it is only slow, give the check more --seconds; what hangs, only isolation='process' can end."
        elif not answer.died:
            advice = (
                "A host ends such an episode as failed, or serves none; let it raise only where it is broken."
            )
        self.findings.append(Finding(name, Verdict.FAIL, _sentence(answer.failure), advice))


def _declared(definition: Definition) -> dict[str, Any]:
    declaration = definition.declaration
    return {
        "declared": declaration.declared,
        "recovery": declaration.recovery.value,
        "isolation": declaration.isolation.value,
        "agents": list(declaration.agents),
        "options": list(declaration.options),
        "global_random": declaration.global_random,
        "episodes_per_worker": declaration.worker_episodes,
    }


def _sentence(failure: str) -> str:
    """A sentence out of it, unless it begins with a method's name."""
    begun = failure if "()" in failure.partition(" ")[0] else failure[:1].upper() + failure[1:]
    return f"{begun}."


def _nothing(measure: str) -> None:
    """Nobody listens."""
