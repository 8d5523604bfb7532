"""What the measurements of conduct mean (pure): spaces, rewards, resets, bad actions, grades, tasks, output."""

from __future__ import annotations

from typing import Any

from envmesh.env import Declaration, Isolation
from envmesh_cli.check.report import Finding, Verdict
from envmesh_cli.check.words import in_bytes, plural

__all__ = ["judge_bad_actions", "judge_extras", "judge_output", "judge_play"]

PASS, WARN, FAIL, SKIP = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.SKIP
_MUCH_OUTPUT = 10_000
"""Bytes an episode."""

Record = dict[str, Any]


def judge_play(play: Record, declaration: Declaration) -> list[Finding]:
    """Findings about plain episodes on one instance."""
    return [
        _plays(play),
        _observations(play),
        *([_infos(play)] if play["bad_infos"] else []),
        _rewards(play),
        *([_agents(play, declaration)] if declaration.agents else []),
        _reset_again(play, declaration),
    ]


def _plays(play: Record) -> Finding:
    episodes, ended = play["episodes"], play["ended"]
    evidence = (
        f"{plural(episodes, 'episode')} of {plural(play['steps'], 'step')} in all, acting by {play['origin']}"
    )
    if ended:
        return Finding("plays", PASS, f"{evidence}; {ended} ended.")
    if play["cut_off"] == episodes:
        return Finding("plays", SKIP, f"{evidence}; there was no time to see one end.")
    return Finding(
        "plays",
        WARN,
        f"{evidence}; none ended.",
        "See that episodes end, by a limit of steps (truncated) if by nothing else: whoever collects them waits.",
    )


def _observations(play: Record) -> Finding:
    count, largest = play["observations"], in_bytes(play["largest_observation"])
    if play["observation_problems"]:
        problem, times = play["observation_problems"][0]
        return Finding(
            "observations",
            FAIL,
            f"{times} of {count} are outside of the declared space: {problem}.",
            "Make observation_space say what is really observed, dtype and bounds included.",
        )
    if not play["observation_space"]:
        return Finding(
            "observations",
            SKIP,
            f"No observation_space is declared; all {count} have a form on the wire, the largest of {largest}.",
            "Declare observation_space (a gymnasium.Space or a JSON Schema): trainers allocate by it, "
            "and arrays travel without a header.",
        )
    return Finding("observations", PASS, f"All {count} are in the declared space, the largest of {largest}.")


def _infos(play: Record) -> Finding:
    problem, times = play["bad_infos"][0]
    return Finding(
        "infos",
        FAIL,
        f"{times} of {play['observations']} have no form on the wire: {problem}.",
        "Put texts, numbers, arrays, lists and maps with text keys into info; leave objects out.",
    )


def _rewards(play: Record) -> Finding:
    low, high = play["reward_range"]
    if play["bad_reward_count"]:
        return Finding(
            "rewards",
            FAIL,
            f"{play['bad_reward_count']} of {play['observations']} are not finite: {'; '.join(play['bad_rewards'])}.",
            "Find the division or logarithm: a host ends the episode rather than pass on such a reward.",
        )
    return Finding("rewards", PASS, f"All {play['observations']} are finite, from {low:g} to {high:g}.")


def _agents(play: Record, declaration: Declaration) -> Finding:
    if play["odd_agents"]:
        problem, times = play["odd_agents"][0]
        return Finding(
            "agents",
            FAIL,
            f"In {times} of {play['observations']} outcomes {problem}.",
            "List every possible agent in the declaration, and give each that is due an observation.",
        )
    return Finding(
        "agents", PASS, f"Those due are among the {len(declaration.agents)} declared, and observe."
    )


def _reset_again(play: Record, declaration: Declaration) -> Finding:
    name = "reset again"
    if play["reset_again"] is None:
        return Finding(name, SKIP, "There was no time to reset an instance that has been used.")
    if not play["reset_again"]["repeatable"]:
        return Finding(
            name, PASS, f"One instance was reset {play['episodes']} times; what remains cannot be told."
        )
    if not play["reset_again"]["same"]:
        evidence = "An instance that has been used gives another episode than a fresh one with the same seed."
        if declaration.reuse and declaration.isolation is Isolation.INLINE:
            advice = (
                "Let reset() begin everything anew, or take back reuse=True: a host resets what it reuses."
            )
            return Finding(name, FAIL, evidence, advice)
        return Finding(
            name,
            WARN,
            evidence,
            "Let reset() begin everything anew. A host makes an instance for each episode, and is not harmed.",
        )
    return Finding(name, PASS, "A used instance gives the same episode as a fresh one.")


def judge_bad_actions(bad: Record) -> Finding:
    """What becomes of values that are no actions."""
    name = "bad actions"
    if bad["exits"]:
        return Finding(
            name,
            FAIL,
            f"They make it end its process: {bad['exits'][0]}.",
            "Raise ValueError for a bad action, or declare action_space, and the host refuses it.",
        )
    if bad["declared"]:
        return Finding(
            name, PASS, f"{plural(bad['refused'], 'value')} outside of the action space are refused by it."
        )
    if bad["raised_count"]:
        changed = f", {bad['changed']} times after it had changed something" if bad["changed"] else ""
        return Finding(
            name,
            WARN,
            f"No action_space is declared, and {bad['raised_count']} of {bad['raised_count'] + bad['accepted']} "
            f"wrong values made it raise ({bad['raised'][0]}){changed}; that ends the episode.",
            "Declare action_space: the host then refuses what is outside, and the episode is unharmed.",
        )
    return Finding(
        name,
        SKIP,
        f"No action_space is declared, and it takes all of {plural(bad['accepted'], 'odd value')}.",
        "Declare action_space, so that a mistaken trainer hears of its mistake.",
    )


def judge_extras(extras: Record, declaration: Declaration) -> list[Finding]:
    """Findings about optional methods and global generators."""
    findings = []
    if extras["reward"] is not None:
        findings.append(_grades(extras["reward"]))
    if extras["tasks"] is not None:
        findings.append(_tasks(extras["tasks"]))
    return [*findings, _generators(extras["generators"], declaration)]


def _grades(reward: Record) -> Finding:
    if reward["problems"]:
        return Finding(
            "grades",
            FAIL,
            f"reward() gives no honest number: {reward['problems'][0]}.",
            "Return a finite number, or a RewardResult whose value and components are.",
        )
    if not reward["changes_nothing"]:
        return Finding(
            "grades",
            FAIL,
            "An episode that is graded on the way goes another way than one that is not.",
            "Let reward() look only: it may be called at any time, any number of times.",
        )
    what = (
        "and it changes nothing" if reward["compared"] else "though there was no time to see what it changes"
    )
    return Finding("grades", PASS, f"reward() was called {reward['graded']} times: finite, {what}.")


def _tasks(tasks: Record) -> Finding:
    if "broken" in tasks:
        return Finding(
            "tasks",
            FAIL,
            f"{tasks['broken']}.",
            "Let tasks() list envmesh.Task objects, each of which reset() can begin with as options['task'].",
        )
    if tasks["repeated"]:
        return Finding(
            "tasks",
            FAIL,
            f"{tasks['repeated']} of {tasks['count']} tasks repeat an id and split.",
            "Make ids unique.",
        )
    begun = "; the first can be begun" if tasks["begun"] else ""
    return Finding("tasks", PASS, f"{plural(tasks['count'], 'task')} with distinct ids{begun}.")


def _generators(used: list[str], declaration: Declaration) -> Finding:
    name = "global generators"
    listed = ", ".join(used)
    if not used:
        spare = (
            " It declares global_random, and was not seen to need it." if declaration.global_random else ""
        )
        return Finding(name, PASS, f"Those of random and numpy.random are left alone.{spare}")
    if declaration.global_random:
        return Finding(
            name, PASS, f"Used by {listed}, as declared: a worker gives each episode its own state of them."
        )
    return Finding(
        name,
        WARN,
        f"Used by {listed}: episodes in one process draw from each other's random numbers.",
        "Draw from a generator of the instance's own (self.np_random, random.Random(seed)), "
        "or declare global_random=True.",
    )


def judge_output(printed: int, episodes: int) -> list[Finding]:
    """A finding where much is printed."""
    each = printed / max(1, episodes)
    if each < _MUCH_OUTPUT:
        return []
    return [
        Finding(
            "output",
            WARN,
            f"It prints {in_bytes(each)} an episode.",
            "Print less: with thousands of episodes at once, nobody can read it, and writing it takes time.",
        )
    ]
