"""The report as one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata

import numpy as np

from envmesh_cli.report import charts
from envmesh_cli.report.elements import Element, document, element
from envmesh_cli.report.episodes import clock_time, cut, episode_list, rebuilt_words
from envmesh_cli.report.gather import Environment, Run, occupancy
from envmesh_cli.report.measures import Measured
from envmesh_cli.tables import rate, seconds
from envmesh_service.pages import page_file

__all__ = ["render"]

SHOWN_ENVIRONMENTS, SHOWN_HOSTS, SHOWN_CAUSES, SHOWN_MARKS = 8, 24, 8, 500
TIMELINE_POINTS = 240
OUTCOMES = {"terminated": "good", "truncated": "plain", "failed": "bad", "open": "other"}


def render(run: Run, measured: Sequence[Measured], title: str) -> str:
    """The page of a run. ``measured`` is what the processes' metrics said, empty where nobody asked."""
    body = element(
        "body",
        element("a", "Skip to the report", href="#report", class_="skip"),
        _top(run, title),
        element(
            "main",
            _tiles(run),
            element("div", *_cards(run, measured), class_="grid"),
            id="report",
        ),
        _footer(),
    )
    package = "envmesh_cli.report"
    style = page_file("envmesh_service.pages", "base.css") + page_file(package, "page.css")
    return document(f"{title} – envmesh report", style=style, script=page_file(package, "page.js"), body=body)


def _top(run: Run, title: str) -> Element:
    names = list(run.environments)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    when = f"{clock_time(run.begin)}, {seconds(run.took)}" if run.begin else "when it ran is not recorded"
    return element(
        "header",
        element(
            "div",
            element("p", element("b", "envmesh"), " report", class_="brand"),
            element("h1", title),
            element("p", f"{', '.join(names[:3])}{more} · {when}", class_="soft"),
        ),
        element("button", "Light or dark", id="theme", type="button", title="t"),
        class_="top",
    )


def _footer() -> Element:
    keys = [
        element("span", element("kbd", key), f" {what}")
        for key, what in (
            ("j", "next episode"),
            ("k", "the one before"),
            ("Enter", "its steps"),
            ("Esc", "close all"),
            ("t", "light or dark"),
        )
    ]
    return element(
        "footer", *keys, element("span", f"made by envmesh {metadata.version('envmesh')}, of one file")
    )


# ---- figures


def _tiles(run: Run) -> Element:
    failed = run.outcomes["failed"]
    hosts = {stay.host for stay in run.stays if stay.host}
    took = run.took
    per_second = (rate(run.steps / took) if took else "–", "/s") if took else ("–", "")
    tiles = [
        _tile("episodes", f"{run.episodes:,}", "", f"{rate(run.episodes / took)} a second" if took else ""),
        _tile("steps", f"{run.steps:,}", "", f"{np.mean(run.lengths or [0]):.4g} an episode"),
        _tile("steps a second", per_second[0], per_second[1], f"over {seconds(took)}" if took else ""),
        _tile(*_step_figure(run)),
        _tile(*_return_figure(run)),
        _tile(
            "failed", f"{failed:,}", "", f"{failed / run.episodes:.2%} of episodes" if run.episodes else "",
            "bad" if failed else "good",
        ),
        _tile(
            "rebuilt", f"{len(run.resumes):,}", "", f"on {len(hosts)} host{'s' * (len(hosts) != 1)}",
            "warn" if run.resumes else None,
        ),
    ]  # fmt: skip
    return element("section", *tiles, class_="tiles", aria_label="The run in numbers")


def _step_figure(run: Run) -> tuple[str, str, str, str]:
    if not len(run.step_seconds):
        return "step, p50", "–", "", "not measured"
    p50, p99 = np.percentile(run.step_seconds, [50, 99])
    figure, _, unit = seconds(float(p50)).partition(" ")
    return "step, p50", figure, f" {unit}", f"p99 {seconds(float(p99))}"


def _return_figure(run: Run) -> tuple[str, str, str, str]:
    found = list(run.environments.values())
    if len(found) != 1 or not found[0].returns:
        return "return, mean", "–", "", f"{len(found)} environments: see below" if len(found) > 1 else ""
    returns = np.asarray(found[0].returns)
    return "return, mean", f"{returns.mean():.4g}", "", f"± {returns.std():.3g}"


def _tile(what: str, figure: str, unit: str, more: str, kind: str | None = None) -> Element:
    return element(
        "div",
        element("div", what, class_="what"),
        element("div", figure, element("small", unit), class_=f"figure {kind or ''}".strip()),
        element("div", more, class_="more", title=more),
        class_="tile",
    )


# ---- cards


def _cards(run: Run, measured: Sequence[Measured]) -> Iterator[Element]:
    if not run.episodes:
        yield card("No episodes", "", element("p", "The recording holds none.", class_="note"))
        return
    yield from _reward_cards(run)
    yield _outcomes(run)
    yield card(
        "Length", "steps an episode", charts.values(np.asarray(run.lengths, dtype=float), "Length"),
        kind="half length",
    )  # fmt: skip
    yield _latency(run)
    yield _parts(run, measured)
    yield _timeline(run)
    if run.failed:
        shown = len(run.failed)
        more = f"the first {shown} of {run.outcomes['failed']:,}" if run.outcomes["failed"] > shown else ""
        yield card("Failed episodes", more, episode_list(run.failed))
    yield card("Slowest episodes", "open one to see its steps", episode_list(run.slowest))


def card(title: str, more: str, *inside: Element, kind: str = "") -> Element:
    """A part of the page under a heading."""
    heading = element("h2", title, " ", element("small", more) if more else None)
    return element("section", heading, *inside, class_=f"card {kind}".strip(), aria_label=title)


def _reward_cards(run: Run) -> Iterator[Element]:
    shown = list(run.environments.values())[:SHOWN_ENVIRONMENTS]
    several = len(run.environments) > 1
    for environment in shown:
        name = environment.key if several else ""
        if not environment.returns:
            yield card("Return", name, element("p", "No episode ended with one.", class_="note"))
            continue
        returns = np.asarray(environment.returns)
        yield card(
            "Return", name or "sum of an episode's rewards", charts.values(returns, "Return"),
            *_grade_note(environment), kind="half reward",
        )  # fmt: skip
        yield card(
            "Return over the run", "mean, and the middle 80 %", charts.course(returns, "Return"), kind="half reward"
        )  # fmt: skip
    if len(run.environments) > len(shown):
        left = len(run.environments) - len(shown)
        yield card("More environments", "", element("p", f"{left} more are not drawn.", class_="note"))


def _grade_note(environment: Environment) -> Iterator[Element]:
    graded = len(environment.grades) + environment.invalid_grades
    if graded:
        mean = f", mean {np.mean(environment.grades):.4g}" if environment.grades else ""
        words = (
            f"{graded:,} episodes were graded{mean}; {environment.invalid_grades:,} grades were not valid."
        )
        yield element("p", words, class_="note")


def _outcomes(run: Run) -> Element:
    counts = {name: run.outcomes[name] for name in OUTCOMES if run.outcomes[name]}
    legend = []
    for name, count in counts.items():
        key = element("span", class_=f"key {OUTCOMES[name]}")
        legend.append(element("span", key, f"{name} {count:,} ({count / run.episodes:.1%})"))
    inside = [charts.shares(counts, OUTCOMES), element("div", *legend, class_="legend")]
    if run.failures:
        rows = [
            element(
                "tr",
                element("td", element("b", cause)),
                element("td", f"{count:,}", class_="number"),
                element("td", element("span", cut(run.messages[cause], 240), class_="value cause soft")),
            )
            for cause, count in run.failures.most_common(SHOWN_CAUSES)
        ]
        inside.append(element("table", element("tbody", *rows), class_="plain"))
    else:
        inside.append(element("p", "No episode failed.", class_="note"))
    return card("Outcomes", "how episodes ended", *inside, kind="half")


def _latency(run: Run) -> Element:
    if not len(run.step_seconds):
        note = (
            "The recording has no times of single steps. `envmesh run --record` measures them; "
            "`mesh.rollouts(…, record=…)` does with measure=True."
        )
        return card("Step time", "", element("p", note, class_="note"), kind="half")
    left_out = run.step_times_left_out
    words = f"{left_out:,} more steps are not counted in." if left_out else ""
    return card(
        "Step time", "from an action to its outcome, as the client saw it",
        charts.durations(run.step_seconds, "Step time"), *([element("p", words, class_="note")] if words else ()),
        kind="half",
    )  # fmt: skip


def _parts(run: Run, measured: Sequence[Measured]) -> Element:
    rows = []
    for part in measured:
        kind = "teal" if "environment" in part.part or part.part in ("reset", "reward") else "plain"
        rows.append((part.part, "warn" if "waiting" in part.part else kind, part.p50, part.p99))
    if len(run.step_seconds):
        p50, p99 = (float(each) for each in np.percentile(run.step_seconds, [50, 99]))
        rows.append(("step, as the client saw it", "plain", p50, p99))
    p50, p99 = (float(each) for each in np.percentile(run.seconds, [50, 99]))
    rows.append(("whole episode", "other", p50, p99))
    note = (
        "Metrics of processes count since those started, other runs included."
        if measured
        else "With --metrics URL… the processes' own metrics split a step into environment and overhead."
    )
    return card(
        "Where the time goes", "bar: median; pale: p99", charts.bars(rows), element("p", note, class_="note"),
        kind="half",
    )  # fmt: skip


def _timeline(run: Run) -> Element:
    if not run.begin or not run.took:
        note = "The recording does not say when its episodes ended; recordings made from now on do."
        return card("Hosts and resumes", "", element("p", note, class_="note"))
    occupied = occupancy(run.stays, run.begin, run.end, TIMELINE_POINTS)
    named = {host or "(not recorded)": row for host, row in occupied.items()}
    busiest = sorted(named, key=lambda host: -float(named[host].sum()))[:SHOWN_HOSTS]
    marks = [
        (
            moment.resume.to_host or "(not recorded)",
            moment.at - run.begin,
            f"{moment.episode.hex()[:12]} {rebuilt_words(moment.resume)}",
        )
        for moment in run.resumes[:SHOWN_MARKS]
    ]
    marks = [mark for mark in marks if mark[0] in busiest]
    notes = []
    if len(named) > len(busiest):
        notes.append(f"{len(named) - len(busiest)} hosts with fewer episodes are not drawn.")
    if run.resumes:
        pauses = np.asarray([moment.resume.seconds for moment in run.resumes])
        causes = ", ".join(sorted({moment.resume.cause for moment in run.resumes}))
        notes.append(
            f"A diamond is an episode rebuilt there, about when it was: {len(run.resumes):,} in all ({causes}), "
            f"paused for {seconds(float(np.median(pauses)))} in the median, {seconds(float(pauses.max()))} at most."
        )  # fmt: skip
    else:
        notes.append("No episode had to be rebuilt.")
    lanes = charts.lanes({host: named[host] for host in named if host in busiest}, marks, run.took)
    words = element("p", " ".join(notes), class_="note")
    return card("Hosts and resumes", "episodes on each host as time went by", lanes, words)
