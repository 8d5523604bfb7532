"""Charts as SVG. Colours are the page's, so that they follow light and dark; every mark has a title in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from envmesh_cli.report.elements import Element, element
from envmesh_cli.report.gather import Numbers
from envmesh_cli.tables import seconds

__all__ = ["bars", "course", "durations", "lanes", "shares", "values"]

WIDTH, HEIGHT = 560, 190
FOOT, HEAD = 22, 26
MOST_BARS, FEWER_BARS = 60, 40

Words = Callable[[float], str]


def number(value: float) -> str:
    """A value in three or four digits."""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.4g}"


def durations(times: Numbers, what: str) -> Element:
    """How long something took, on a logarithmic scale, with its median, p90 and p99."""
    times = np.maximum(times, 1e-7)
    low, high = float(np.percentile(times, 0.1)), float(times.max())
    first, last = math.log10(low / 1.15), math.log10(high * 1.15)
    bins = np.logspace(first, last, MOST_BARS + 1)
    counts, _ = np.histogram(np.maximum(times, bins[0]), bins)
    marks = {f"p{share}": float(np.percentile(times, share)) for share in (50, 90, 99)}
    ticks = [m * 10.0**e for e in range(-7, 5) for m in (1, 3) if low / 1.15 <= m * 10.0**e <= high * 1.15]
    if len(ticks) > 8:
        ticks = [tick for tick in ticks if math.log10(tick) == round(math.log10(tick))]

    def place(value: float) -> float:
        return (math.log10(value) - first) / (last - first)

    return _histogram(counts, [place(b) for b in bins], bins, place, ticks, marks, seconds, what)


def values(found: Numbers, what: str, *, mean: bool = True) -> Element:
    """How values are spread."""
    different = np.unique(found)
    low, high = float(different[0]), float(different[-1])
    if np.array_equal(different, np.round(different)) and high > low:
        width = math.ceil((high - low + 1) / MOST_BARS)  # whole numbers: every bar stands for as many of them
        bins = np.arange(low - 0.5, high + width + 0.5, width)
    elif low == high:
        half = max(0.5, abs(low) * 1e-6)  # beside a large number, half of one is nothing
        bins = np.array([low - half, low + half])
    else:
        bins = np.linspace(low, high, FEWER_BARS + 1)
    counts, _ = np.histogram(found, bins)
    span = float(bins[-1] - bins[0])

    def place(value: float) -> float:
        return (value - float(bins[0])) / span

    marks = {"mean": float(found.mean())} if mean else {"median": float(np.median(found))}
    return _histogram(counts, [place(b) for b in bins], bins, place, _ticks(low, high), marks, number, what)


def _histogram(counts: Numbers, places: Sequence[float], bins: Numbers, place: Words | Callable[[float], float],
               ticks: Sequence[float], marks: Mapping[str, float], words: Words, what: str) -> Element:  # fmt: skip
    drawing = _drawing(f"{what}: " + ", ".join(f"{name} {words(at)}" for name, at in marks.items()))
    floor, room = HEIGHT - FOOT, HEIGHT - FOOT - HEAD
    most = int(counts.max()) or 1
    for index, count in enumerate(counts):
        x, width = places[index] * WIDTH, (places[index + 1] - places[index]) * WIDTH
        tall = max(1.5, float(count) / most * room) if count else 0.0
        title = element(
            "title", f"{words(float(bins[index]))} to {words(float(bins[index + 1]))}: {int(count):,}"
        )
        drawing.append(
            element("rect", title, x=f"{x + 0.5:.1f}", y=f"{floor - tall:.1f}", width=f"{max(1.0, width - 1):.1f}",
                    height=f"{tall:.1f}", rx="1.5", class_="bar")
        )  # fmt: skip
    drawing.append(element("line", x1=0, x2=WIDTH, y1=floor, y2=floor, class_="axis"))
    for tick in ticks:
        x = float(place(tick)) * WIDTH
        anchor = "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"
        drawing.append(element("text", words(tick), x=f"{x:.1f}", y=HEIGHT - 5, text_anchor=anchor))
    taken = -1e9
    for name, at in marks.items():
        x = float(place(at)) * WIDTH
        label = f"{name} {words(at)}"
        width = 6.9 * len(label)
        drawing.append(element("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=HEAD - 8, y2=floor, class_="mark"))
        left = min(max(x - width / 2, taken + 8), WIDTH - width)
        drawing.append(element("text", label, x=f"{left:.1f}", y=12, class_="strong"))
        taken = left + width
    return drawing


def course(found: Numbers, what: str) -> Element:
    """A value after another: the mean of each stretch, and between which values its middle 80 % lie."""
    points = min(len(found), 70)
    parts = np.array_split(found, points)
    middle = np.array([part.mean() for part in parts])
    low = np.array([np.percentile(part, 10) for part in parts])
    high = np.array([np.percentile(part, 90) for part in parts])
    ends = _ticks(float(low.min()), float(high.max()))
    bottom, top = min(ends[0], float(low.min())), max(ends[-1], float(high.max()))
    span = (top - bottom) or 1.0
    left, floor, room = 44, HEIGHT - FOOT, HEIGHT - FOOT - 10

    def y(value: float) -> float:
        return floor - (value - bottom) / span * room

    xs = [left + (WIDTH - left) * (i + 0.5) / points for i in range(points)]
    drawing = _drawing(f"{what}: from {number(float(middle[0]))} to {number(float(middle[-1]))}")
    for tick in ends:
        drawing.append(
            element("line", x1=left, x2=WIDTH, y1=f"{y(tick):.1f}", y2=f"{y(tick):.1f}", class_="axis")
        )
        drawing.append(element("text", number(tick), x=left - 8, y=f"{y(tick) + 4:.1f}", text_anchor="end"))
    outline = [(x, y(float(v))) for x, v in zip(xs, high, strict=True)]
    outline += [(x, y(float(v))) for x, v in reversed(list(zip(xs, low, strict=True)))]
    drawing.append(element("polygon", points=_points(outline), class_="band"))
    line = [(x, y(float(v))) for x, v in zip(xs, middle, strict=True)]
    drawing.append(element("polyline", points=_points(line), class_="line"))
    drawing.append(element("text", "first episode", x=left, y=HEIGHT - 5))
    drawing.append(element("text", "last", x=WIDTH, y=HEIGHT - 5, text_anchor="end"))
    return drawing


def shares(counts: Mapping[str, int], classes: Mapping[str, str]) -> Element:
    """Parts of a whole as one bar."""
    whole = sum(counts.values()) or 1
    drawing = element(
        "svg", viewBox=f"0 0 {WIDTH} 26", role="img",
        aria_label=", ".join(f"{name} {count:,}" for name, count in counts.items()),
    )  # fmt: skip
    x = 0.0
    for name, count in counts.items():
        width = count / whole * WIDTH
        title = element("title", f"{name}: {count:,} ({count / whole:.1%})")
        drawing.append(
            element("rect", title, x=f"{x:.1f}", y=2, width=f"{max(1.5, width - 1.5):.1f}", height=20, rx=3,
                    class_=f"fill-{classes.get(name, 'other')}")
        )  # fmt: skip
        x += width
    return drawing


def bars(rows: Sequence[tuple[str, str, float, float]]) -> Element:
    """Durations beside one another, on one logarithmic scale: a bar to the median, a whisker to the p99. A row is its
    name, a class, p50 and p99 in seconds."""
    tall, left = 40, 4
    low = min(1e-4, *(row[2] for row in rows)) / 2
    high = max(row[3] for row in rows) * 1.3
    first, last = math.log10(max(low, 1e-7)), math.log10(high)

    def x(value: float) -> float:
        return left + (math.log10(max(value, 1e-7)) - first) / (last - first) * (WIDTH - left - 4)

    drawing = element(
        "svg", viewBox=f"0 0 {WIDTH} {len(rows) * tall + FOOT}", role="img",
        aria_label="; ".join(f"{name}: median {seconds(p50)}, p99 {seconds(p99)}" for name, _, p50, p99 in rows),
    )  # fmt: skip
    for index, (name, kind, p50, p99) in enumerate(rows):
        y = index * tall
        drawing.append(element("text", name, x=left, y=y + 13))
        drawing.append(
            element("text", f"{seconds(p50)}  ·  p99 {seconds(p99)}", x=WIDTH, y=y + 13, text_anchor="end",
                    class_="strong")
        )  # fmt: skip
        drawing.append(element("rect", x=left, y=y + 19, width=WIDTH - left, height=9, rx=2, class_="trough"))
        drawing.append(
            element("rect", x=left, y=y + 19, width=f"{max(2.0, x(p99) - left):.1f}", height=9, rx=2,
                    class_=f"fill-{kind} faint")
        )  # fmt: skip
        drawing.append(
            element("rect", x=left, y=y + 19, width=f"{max(2.0, x(p50) - left):.1f}", height=9, rx=2,
                    class_=f"fill-{kind}")
        )  # fmt: skip
    for exponent in range(-7, 5):
        if first <= exponent <= last:
            at = x(10.0**exponent)
            anchor = "end" if at > WIDTH - 20 else "start" if at < 20 else "middle"
            drawing.append(
                element("text", seconds(10.0**exponent), x=f"{at:.1f}", y=len(rows) * tall + 14, text_anchor=anchor)
            )  # fmt: skip
    return drawing


def lanes(occupied: Mapping[str, Numbers], marks: Sequence[tuple[str, float, str]], took: float) -> Element:
    """By host, how many episodes it had as time went by. A mark is a host, a time in seconds, and its words."""
    wide, tall, left = 1180, 34, 170
    points = len(next(iter(occupied.values())))
    most = max(float(row.max()) for row in occupied.values()) or 1.0
    drawing = element(
        "svg", viewBox=f"0 0 {wide} {len(occupied) * tall + FOOT}", role="img",
        aria_label=f"{len(occupied)} hosts over {seconds(took)}; {len(marks)} resumes",
    )  # fmt: skip
    rows = {host: index for index, host in enumerate(occupied)}
    step = (wide - left) / points
    for host, row in occupied.items():
        floor = rows[host] * tall + tall - 6
        drawing.append(element("text", host, x=left - 12, y=floor - 6, text_anchor="end"))
        drawing.append(element("line", x1=left, x2=wide, y1=floor, y2=floor, class_="axis"))
        outline = [(float(left), float(floor))]
        outline += [
            (left + (i + 0.5) * step, floor - float(v) / most * (tall - 10)) for i, v in enumerate(row)
        ]
        outline.append((wide, float(floor)))
        title = element("title", f"{host}: {float(row.max()):,.0f} episodes at the most")
        drawing.append(element("polygon", title, points=_points(outline), class_="area"))
    for host, at, words in marks:
        x, y = left + at / (took or 1.0) * (wide - left), rows[host] * tall + tall - 6
        drawing.append(
            element("path", element("title", words), class_="resume",
                    d=f"M{x:.1f} {y - 5} l4 5 l-4 5 l-4 -5 z")
        )  # fmt: skip
    for tick in _ticks(0.0, took)[:-1]:
        x = left + tick / (took or 1.0) * (wide - left)
        drawing.append(
            element("text", f"{number(tick)} s", x=f"{x:.1f}", y=len(occupied) * tall + 15,
                    text_anchor="start" if tick == 0 else "middle")
        )  # fmt: skip
    drawing.append(element("text", f"{took:.3g} s", x=wide, y=len(occupied) * tall + 15, text_anchor="end"))
    return drawing


def _drawing(label: str) -> Element:
    return element("svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, about five."""
    if high <= low:
        return [low]
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [float(round(i * step, 10)) for i in range(first, math.floor(high / step + 1e-9) + 1)]
