"""One episode in the report: a line that opens to its steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np

from envmesh.outcome import Outcome, Resume, Trajectory
from envmesh_cli.report.charts import number
from envmesh_cli.report.elements import Element, element
from envmesh_cli.tables import seconds

__all__ = ["clock_time", "cut", "episode_list", "rebuilt_words"]

SHOWN_CHARACTERS = 400
SHOWN_STEPS = 200
MESSAGE_CHARACTERS = 4000


def episode_list(trajectories: Sequence[Trajectory]) -> Element:
    """Episodes one below the other, each closed."""
    head = element(
        "div",
        element("span", "episode"),
        element("span", "took", class_="number"),
        element("span", "length", class_="number wide"),
        element("span", "return", class_="number"),
        element("span", "how it ended", class_="wide"),
        class_="heads",
        aria_hidden="true",
    )
    return element("div", head, *(_episode(trajectory) for trajectory in trajectories))


def _episode(trajectory: Trajectory) -> Element:
    total, failure = trajectory.return_, trajectory.failure
    rebuilt = len(trajectory.resumes)
    ended = failure.cause if failure else trajectory.outcome
    summary = element(
        "summary",
        element("span", element("code", trajectory.episode_id.hex()[:12]), f"  seed {trajectory.seed}"),
        element("span", seconds(trajectory.seconds), class_="number"),
        element("span", f"{len(trajectory):,} steps", class_="number soft wide"),
        element("span", "–" if total is None else number(total), class_="number"),
        element(
            "span",
            element("span", ended, class_="bad" if failure else "soft"),
            f", rebuilt {rebuilt}×" if rebuilt else "",
            class_="wide",
        ),
    )
    return element("details", summary, element("div", *_inside(trajectory), class_="inside"))


def _inside(trajectory: Trajectory) -> Iterator[Element]:
    facts = {
        "environment": trajectory.spec.key,
        "episode": trajectory.episode_id.hex(),
        "task": trajectory.task,
        "host": trajectory.host,
        "group": "" if trajectory.group is None else str(trajectory.group),
        "ended": clock_time(trajectory.ended_at) if trajectory.ended_at else "",
    }
    if trajectory.grade is not None:
        facts["grade"] = f"{number(trajectory.grade.value)}{'' if trajectory.grade.valid else ' (not valid)'}"
    shown = [element("span", f"{name} ", element("b", value)) for name, value in facts.items() if value]
    yield element("div", *shown, class_="facts")
    if trajectory.failure is not None:
        yield element("pre", cut(trajectory.failure.message, MESSAGE_CHARACTERS), class_="message")
    outcomes = trajectory.outcomes()
    if not outcomes:
        yield element("p", "It has no steps: it failed before its first observation.", class_="note")
        return
    steps = _steps(trajectory, outcomes)
    yield element("div", steps, class_="scroll", tabindex="0", role="region", aria_label="Steps")


def _steps(trajectory: Trajectory, outcomes: Sequence[Outcome]) -> Element:
    times, actions = trajectory.step_seconds, trajectory.actions
    longest = max(times, default=0.0) if times is not None else 0.0
    rewards = [0.0, *trajectory.rewards]
    columns = [element("col", class_=name) for name in ("narrow", "time", "narrow", "action", "")]
    heads = [
        element("th", name, class_="number" if name in ("step", "reward") else None)
        for name in ("step", "time", "reward", "action", "observation")
    ]
    body = element("tbody")
    rebuilt = {resume.index: resume for resume in trajectory.resumes}
    chosen = shown_steps(len(outcomes), times)
    last = -1
    for index in chosen:
        if index > last + 1:
            body.append(_wide_row(f"… {index - last - 1:,} steps are left out …", "soft"))
        last = index
        outcome = outcomes[index]
        time = times[index - 1] if times is not None and 0 < index <= len(times) else None
        body.append(
            element(
                "tr",
                element("td", "reset" if index == 0 else str(index), class_="number"),
                element("td", *_time(time, longest)),
                element("td", number(rewards[index]) if index else "", class_="number"),
                element("td", *([value_of(actions[index - 1])] if index and index <= len(actions) else [])),
                element("td", value_of(outcome.observation)),
            )
        )
        if (resume := rebuilt.get(index)) is not None:
            body.append(_wide_row(rebuilt_words(resume), "rebuilt"))
    return element(
        "table", element("colgroup", *columns), element("thead", element("tr", *heads)), body, class_="steps"
    )


def rebuilt_words(resume: Resume) -> str:
    """How an episode was rebuilt, in one sentence."""
    where = (
        f"on {resume.to_host}"
        if resume.from_host == resume.to_host
        else f"{resume.from_host} → {resume.to_host}"
    )
    return (
        f"rebuilt in {seconds(resume.seconds)} ({resume.cause}), {where}, {resume.replayed:,} steps replayed"
    )


def shown_steps(count: int, times: Sequence[float] | None) -> list[int]:
    """Which steps are shown: all, or the first, the last and the slowest ones."""
    if count <= SHOWN_STEPS:
        return list(range(count))
    third = SHOWN_STEPS // 3
    chosen = {*range(third), *range(count - third, count)}
    if times is not None:
        chosen |= {int(index) + 1 for index in np.argsort(np.asarray(times))[-third:]}
    return sorted(index for index in chosen if index < count)


def _wide_row(words: str, kind: str) -> Element:
    return element("tr", element("td", words, colspan=5), class_=kind)


def _time(time: float | None, longest: float) -> list[Element | str]:
    if time is None:
        return [""]
    width = 64 * time / longest if longest else 0.0
    meter = element(
        "svg",
        element("rect", width=64, height=6, class_="trough"),
        element("rect", width=f"{max(1.0, width):.1f}", height=6),
        class_="meter",
        viewBox="0 0 64 6",
        aria_hidden="true",
    )
    return [meter, seconds(time)]


def value_of(value: object) -> Element:
    """A value as people read it, cut where it is long."""
    if isinstance(value, np.ndarray):
        text = np.array2string(
            value, threshold=40, precision=4, separator=", ", max_line_width=10_000, suppress_small=True
        )
        text = text if value.size <= 40 else f"{value.dtype}{list(value.shape)} {text}"
    elif isinstance(value, str):
        text = value
    else:
        try:
            text = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError):
            text = repr(value)
    return element("code", cut(text, SHOWN_CHARACTERS), class_="value", dir="auto")


def cut(text: str, most: int) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} characters)"


def clock_time(moment: float) -> str:
    """A moment as people write it, in UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"
