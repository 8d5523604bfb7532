"""What the measurements of replays mean (pure): the same episode again, and whether the recovery class is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envmesh.env import Declaration, Isolation, Recovery
from envmesh_cli.check.report import Finding, Verdict
from envmesh_cli.check.words import in_bytes, in_time, plural

__all__ = [
    "judge_another_process",
    "judge_checkpoints",
    "judge_different_seeds",
    "judge_neighbours",
    "judge_same_seed",
    "promises_replay",
]

PASS, WARN, FAIL, SKIP = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.SKIP
Record = dict[str, Any]
Differs = Sequence[int | None]


def promises_replay(declaration: Declaration) -> bool:
    """Whether its recovery class says that the same seed and actions give the same outcomes."""
    if declaration.recovery is Recovery.STATE:
        return declaration.deterministic
    return declaration.recovery is Recovery.REPLAY


def judge_same_seed(differs: Differs, steps: int, declaration: Declaration, *, seeded: bool) -> Finding:
    """The same seed and actions again, in the same process: ``steps`` of them in all."""
    name = "same seed"
    played = f"{plural(len(differs), 'episode')} ({plural(steps, 'step')})"
    broken = _count(differs)
    if not broken:
        return Finding(
            name, PASS, f"{played} played again with the same seed and actions: every outcome is the same."
        )
    evidence = f"{broken} of {played} went another way when played again, the first {_at(differs)}."
    if promises_replay(declaration):
        return Finding(
            name,
            FAIL,
            evidence,
            "Draw every random number from generators that reset(seed=…) seeds, and ask no clock; "
            f"or declare recovery='none', for class {declaration.recovery.name} is not true.",
        )
    if not seeded:
        return Finding(name, SKIP, f"{evidence} It honours no seed, and its class NONE promises nothing.")
    return Finding(
        name, WARN, evidence, "It takes a seed and does not keep to it: take all randomness from it."
    )


def judge_neighbours(
    differs: Differs, declaration: Declaration, *, repeatable: bool, swapped: bool, overlapping: bool
) -> Finding:
    """The same episodes, side by side in one process."""
    name = "neighbours"
    if not repeatable:
        return Finding(
            name, SKIP, "It does not repeat an episode alone, so nothing can be said of neighbours."
        )
    if len(differs) < 2:
        return Finding(name, SKIP, "There was time for one episode only.")
    turns = "at once" if overlapping else "in turns"
    if not _count(differs):
        how = ", each with its own state of the global generators" if swapped else ""
        return Finding(
            name,
            PASS,
            f"{plural(len(differs), 'episode')} {turns} in one process{how}: each goes as it goes alone.",
        )
    evidence = (
        f"{_count(differs)} of {plural(len(differs), 'episode')} {turns} in one process went another way than alone, "
        f"the first {_at(differs)}."
    )
    if declaration.isolation is Isolation.PROCESS and declaration.worker_episodes == 1:
        return Finding(
            name,
            WARN,
            f"{evidence} It has a worker process for each episode, so nobody is harmed.",
            "Keep all state in the instance, and many episodes can share a worker.",
        )
    return Finding(
        name,
        FAIL,
        evidence,
        "Keep all state in the instance, not in the module, the class or the global generators (for these alone, "
        "global_random=True helps), and let close() end nothing that others use; "
        "or declare isolation='process' with episodes_per_worker=1.",
    )


def judge_different_seeds(traces: list[Record], *, seeded: bool) -> Finding:
    """Whether a seed makes a difference."""
    name = "different seeds"
    if not seeded:
        return Finding(
            name,
            SKIP,
            "reset() takes no seed.",
            "Take one (reset(self, *, seed=None, options=None)): groups of episodes need the same beginning.",
        )
    if len(traces) < 2:
        return Finding(name, SKIP, "There was time for one episode only.")
    kinds = _kinds([trace["digests"] for trace in traces])
    if kinds == 1:
        return Finding(
            name,
            WARN,
            f"{plural(len(traces), 'seed')} gave one and the same episode.",
            "If chance has a part in it, take it from the seed; if not, all is well.",
        )
    return Finding(name, PASS, f"{plural(len(traces), 'seed')} gave {plural(kinds, 'different episode')}.")


def _kinds(episodes: list[list[str]]) -> int:
    """How many there are that differ as far as both were played: one may have been cut off by the time."""
    kinds: list[list[str]] = []
    for episode in episodes:
        if all(any(a != b for a, b in zip(episode, kind, strict=False)) for kind in kinds):
            kinds.append(episode)
    return len(kinds)


def judge_another_process(
    same_hashing: Differs, other_hashing: Differs, declaration: Declaration, *, repeatable: bool
) -> Finding:
    """The same episodes in fresh processes, where sets and dicts of texts are ordered alike, and where they are not."""
    name = "another process"
    if not repeatable:
        return Finding(name, SKIP, "It does not repeat an episode in its own process.")
    promised = promises_replay(declaration)
    if _count(same_hashing):
        return Finding(
            name,
            FAIL if promised else WARN,
            f"{_count(same_hashing)} of {plural(len(same_hashing), 'episode')} went another way in a fresh process, "
            f"the first {_at(same_hashing)}.",
            "Look for what differs between processes: the clock, the process's number, addresses (id, hash of "
            "objects), files, what earlier episodes left behind.",
        )
    if _count(other_hashing):
        in_host = declaration.isolation is not Isolation.PROCESS
        where = (
            "it runs in its host's own process"
            if in_host
            else "workers have one hash seed, so replays hold there"
        )
        return Finding(
            name,
            FAIL if promised and in_host else WARN,
            f"{_count(other_hashing)} of {plural(len(other_hashing), 'episode')} went another way where texts hash "
            f"otherwise (PYTHONHASHSEED), the first {_at(other_hashing)}; {where}.",
            "Do not depend on the order of a set: sort it first.",
        )
    return Finding(
        name, PASS, f"{plural(len(same_hashing), 'episode')} went the same way in two fresh processes."
    )


def judge_checkpoints(
    taken: Record, here: Record, elsewhere: Record, declaration: Declaration, *, repeatable: bool
) -> Finding:
    """Class STATE: what is restored has the same grade and, where the environment repeats itself at all, goes on as
    the original did."""
    name = "checkpoints"
    checkpoints = taken["checkpoints"]
    if not checkpoints:
        return Finding(name, SKIP, "No episode came as far again as it was recorded, to be saved there.")
    largest = max(checkpoint["bytes"] for checkpoint in checkpoints)
    slowest = max(checkpoint["seconds"] for checkpoint in checkpoints)
    figures = f"{in_bytes(largest)}, taken in {in_time(slowest)}"
    untrue = FAIL if declaration.deterministic else WARN
    disturbed = next((item for item in checkpoints if item["disturbed"] is not None), None)
    if disturbed is not None:
        return Finding(
            name,
            untrue,
            f"After a checkpoint at step {disturbed['at']} the episode itself "
            f"{_went(repeatable)} at step {disturbed['disturbed']}.",
            "Let checkpoint() copy and change nothing, generators included.",
        )
    for restored, where in ((here, "a fresh instance"), (elsewhere, "a fresh process")):
        for checkpoint, step, regraded in zip(
            checkpoints, restored["differs"], restored["regraded"], strict=False
        ):
            begun = f"Restored in {where} from step {checkpoint['at']},"
            if regraded:
                advice = "Put all that reward() looks at into the checkpoint."
                return Finding(name, FAIL, f"{begun} it is graded otherwise than before.", advice)
            if step is not None:
                return Finding(
                    name,
                    untrue,
                    f"{begun} the future differs at step {step}."
                    if repeatable
                    else f"{begun} it raises at step {step}.",
                    "Put all that the future depends on into the checkpoint: the state of generators, counters, "
                    "what reset() chose.",
                )
    same = "the future is the same" if repeatable else "it goes on; what it cannot repeat cannot be compared"
    return Finding(
        name,
        PASS,
        f"Restored from {plural(len(here['differs']), 'checkpoint')} in a fresh instance and a fresh process, "
        f"{same} ({figures}).",
    )


def _went(repeatable: bool) -> str:
    return "went another way," if repeatable else "raised"


def _count(differs: Differs) -> int:
    return sum(1 for index in differs if index is not None)


def _at(differs: Differs) -> str:
    first = next(index for index in differs if index is not None)
    return "at its reset" if first == 0 else f"at step {first}"
