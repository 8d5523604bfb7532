"""Instruments that cost the hot path a list append: counters, histograms and gauges, without a metrics library.

The usual ones take a lock and a dictionary look-up for each event. These collect events in plain lists and counts, and
hand over finished families when somebody asks. They belong to one thread. A family has the attributes that
``prometheus_client`` writes text from, so its registries and exporters take them as they are, where it is installed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COARSE_DURATION_BUCKETS",
    "DURATION_BUCKETS",
    "LENGTH_BUCKETS",
    "REWARD_BUCKETS",
    "RPC_BUCKETS",
    "SLOW_DURATION_BUCKETS",
    "BoundedLabel",
    "Counter",
    "CounterSeries",
    "Exemplar",
    "Family",
    "Gauge",
    "Histogram",
    "HistogramSeries",
    "Instrument",
    "Sample",
]

DURATION_BUCKETS = tuple(float(f"{m}e{e}") for e in range(-5, 3) for m in (1, 2.5, 5))
"""Seconds: 10 µs to 500 s in steps of 1, 2.5, 5."""

_MAGNITUDES = (*(float(f"{m}e{e}") for e in range(-2, 4) for m in (1, 2, 5)), 10_000.0)
REWARD_BUCKETS = (*(-m for m in reversed(_MAGNITUDES)), 0.0, *_MAGNITUDES)
"""Signed: 0 and ±0.01 to ±10,000 in steps of 1, 2, 5."""

COARSE_DURATION_BUCKETS = (*(float(f"{m}e{e}") for e in range(-5, 2) for m in (1, 3)), 100.0)
"""Seconds: 10 µs to 100 s in steps of 1 and 3, where an environment's name multiplies them."""

SLOW_DURATION_BUCKETS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Seconds: 1 ms to 300 s, for what happens once an episode."""

RPC_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: those of go-grpc-prometheus."""

LENGTH_BUCKETS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
"""Counts: 1 to 10,000 in steps of 1 and 3."""

_FEW = 32
"""Fewer values than this are bucketed one by one, more with numpy."""
_MOST_PENDING = 4096
"""So many values wait to be bucketed at most, whether anybody looks or not."""

Labels = tuple[str, ...]

HistogramRow = tuple[Labels, list[int], "dict[int, Exemplar]", float, float, int]
"""A copy of one histogram: labels, cumulative counts, exemplars by bucket, gain, loss, changes."""


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One value of many, and where to read more of it: ``labels`` have its ``trace_id``. ``timestamp`` in seconds since
    1970. Only the OpenMetrics format has them."""

    labels: Mapping[str, str]
    value: float
    timestamp: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of one series."""

    name: str
    labels: Mapping[str, str]
    value: float
    timestamp: float | None = None
    exemplar: Exemplar | None = None
    native_histogram: None = None


@dataclass(slots=True)
class Family:
    """The series of one name. ``type`` is Prometheus's word: counter, gauge or histogram."""

    name: str
    documentation: str
    type: str
    unit: str = ""
    samples: list[Sample] = field(default_factory=list)

    def add_sample(
        self, name: str, labels: Mapping[str, str], value: float, exemplar: Exemplar | None = None
    ) -> None:
        """One more series."""
        self.samples.append(Sample(name, labels, value, exemplar=exemplar))


Build = Callable[[], Iterable[Family]]
"""Makes families of a copy of the numbers, in any thread."""


class Instrument(Protocol):
    """What a registry asks of whatever it holds."""

    name: str
    documentation: str
    label_names: Labels

    @property
    def families(self) -> Mapping[str, str]:
        """The names it exports and the type of each."""
        ...

    def snapshot(self) -> Build:
        """Copy what is needed; the result builds families from the copy, in any thread."""
        ...

    def flush(self) -> None:
        """Take in what the hot path left in lists."""
        ...


class CounterSeries:
    """One counter with its labels. ``value`` may be added to directly."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Count ``amount`` more, at least 0."""
        self.value += amount


class Counter:
    """Counters of one name, one for each set of label values."""

    def __init__(self, name: str, documentation: str, labels: Labels) -> None:
        self.name, self.documentation, self.label_names = name.removesuffix("_total"), documentation, labels
        self._series: dict[Labels, CounterSeries] = {}

    @property
    def families(self) -> Mapping[str, str]:
        """The names it exports and the type of each."""
        return {f"{self.name}_total": "counter"}

    def labels(self, *values: str) -> CounterSeries:
        """The counter of these label values; keep it where it is used often."""
        series = self._series.get(values)
        if series is None:
            series = self._series[_checked(values, self.label_names)] = CounterSeries()
        return series

    def add(self, amount: float = 1.0, *values: str) -> None:
        """Count ``amount`` more on these label values."""
        self.labels(*values).value += amount

    def flush(self) -> None:
        """Nothing waits."""

    def snapshot(self) -> Build:
        """A copy, as a family still to be built."""
        rows = [(values, series.value) for values, series in self._series.items()]

        def build() -> Iterable[Family]:
            family = Family(self.name, self.documentation, "counter")
            for values, value in rows:
                family.add_sample(
                    f"{self.name}_total", dict(zip(self.label_names, values, strict=True)), value
                )
            return (family,)

        return build


class HistogramSeries:
    """One histogram with its labels. The hot path notes values in ``pending``; ``flush`` buckets what is there."""

    __slots__ = (
        "_bounds", "_bounds_array", "_last", "_signed", "changes", "counts", "exemplars", "gain", "loss", "pending"
    )  # fmt: skip

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._bounds_array = np.asarray(bounds)
        self._signed = bounds[0] < 0
        self.counts = [0] * (len(bounds) + 1)
        self.gain = self.loss = 0.0
        self.changes = 0
        """How many values differed from the one before."""
        self._last = float("nan")
        self.pending: list[float] = []
        self.exemplars: dict[int, Exemplar] = {}
        """By bucket, the last value of it that has a trace."""

    def show(self, exemplar: Exemplar) -> None:
        """A value that is observed anyway has a trace: its bucket points to that from now on."""
        self.exemplars[bisect_left(self._bounds, exemplar.value)] = exemplar

    def observe(self, value: float) -> None:
        """Take in one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        if value != self._last:
            self.changes += self._last == self._last
            self._last = value
        if value >= 0:
            self.gain += value
        else:
            self.loss -= value

    def note(self, value: float) -> None:
        """Take in one value, with others later."""
        self.pending.append(value)
        if len(self.pending) >= _MOST_PENDING:
            self.flush()

    def observe_many(
        self, values: Sequence[float] | NDArray[np.float64], times: NDArray[np.float64] | None = None
    ) -> None:
        """Take in many finite values at once; an array of float64 is taken as it is. ``times`` says how often each was
        observed, where they are durations."""
        if times is not None:
            array = np.asarray(values, dtype=np.float64)
            bins = np.bincount(self._bounds_array.searchsorted(array), times, minlength=len(self.counts))
            self.add_counts(np.rint(bins).astype(int).tolist(), float(array @ times))
            return
        if len(values) < _FEW:
            for value in values:
                self.observe(value)
            return
        array = np.asarray(values, dtype=np.float64)
        bins = np.bincount(self._bounds_array.searchsorted(array), minlength=len(self.counts))
        self.counts = [old + new for old, new in zip(self.counts, bins.tolist(), strict=True)]
        if not self._signed:  # a duration's loss and changes are nobody's question, and it comes in thousands
            self.gain += float(array.sum())
            return
        self.changes += int(np.count_nonzero(array[1:] != array[:-1])) + bool(
            array[0] != self._last == self._last
        )
        self._last = float(array[-1])
        self.gain += float(array.sum(where=array > 0))
        self.loss -= float(
            array.sum(where=array < 0)
        )  # the rest of a sum of all may round to less than nothing

    def add_counts(self, counts: Sequence[int], total: float) -> None:
        """Take in values that were bucketed elsewhere: one count a bucket, the last beyond every bound; their sum."""
        self.counts = [old + new for old, new in zip(self.counts, counts, strict=True)]
        self.gain += max(total, 0.0)
        self.loss += max(-total, 0.0)

    def flush(self) -> None:
        """Take in ``pending``."""
        if self.pending:
            values, self.pending[:] = self.pending[:], ()
            self.observe_many(values)


class Histogram:
    """Histograms of one name. A signed one has ``_gain_total`` and ``_loss_total`` in place of a sum, and
    ``_changes_total``: a reward that never changes teaches nothing."""

    def __init__(self, name: str, documentation: str, labels: Labels, bounds: Sequence[float]) -> None:
        self.name, self.documentation, self.label_names = name, documentation, labels
        self.bounds = tuple(bounds)
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError(f"the buckets of {name} must rise")
        self._edges = (*(_edge(bound) for bound in self.bounds), "+Inf")
        self._signed = self.bounds[0] < 0
        self._series: dict[Labels, HistogramSeries] = {}

    @property
    def families(self) -> Mapping[str, str]:
        """The names it exports and the type of each."""
        beside = {f"{self.name}_{what}_total": "counter" for what in ("gain", "loss", "changes")}
        return {self.name: "histogram", **(beside if self._signed else {})}

    def labels(self, *values: str) -> HistogramSeries:
        """The histogram of these label values; keep it where it is used often."""
        series = self._series.get(values)
        if series is None:
            series = self._series[_checked(values, self.label_names)] = HistogramSeries(self.bounds)
        return series

    def flush(self) -> None:
        """Take in what waits in any series."""
        for series in self._series.values():
            series.flush()

    def snapshot(self) -> Build:
        """A copy, as families still to be built."""
        rows = [
            (v, list(accumulate(s.counts)), dict(s.exemplars), s.gain, s.loss, s.changes)
            for v, s in self._series.items()
        ]
        return lambda: self._families(rows)

    def _families(self, rows: list[HistogramRow]) -> Iterable[Family]:
        family = Family(self.name, self.documentation, "histogram")
        gain = Family(f"{self.name}_gain", f"Sum of the positive values: {self.documentation}", "counter")
        loss = Family(
            f"{self.name}_loss",
            f"Sum of the negative values, as a positive number: {self.documentation}",
            "counter",
        )
        changes = Family(
            f"{self.name}_changes", f"Values that differ from the one before: {self.documentation}", "counter"
        )
        for values, cumulative, exemplars, gained, lost, changed in rows:
            labels = dict(zip(self.label_names, values, strict=True))
            for at, (edge, count) in enumerate(zip(self._edges, cumulative, strict=True)):
                family.add_sample(f"{self.name}_bucket", {**labels, "le": edge}, count, exemplars.get(at))
            family.add_sample(f"{self.name}_count", labels, cumulative[-1])
            if self._signed:
                gain.add_sample(f"{self.name}_gain_total", labels, gained)
                loss.add_sample(f"{self.name}_loss_total", labels, lost)
                changes.add_sample(f"{self.name}_changes_total", labels, changed)
            else:
                family.add_sample(f"{self.name}_sum", labels, gained - lost)
        return (family, gain, loss, changes) if self._signed else (family,)


class Gauge:
    """Numbers that are looked up when somebody scrapes, in the event loop's thread."""

    def __init__(
        self, name: str, documentation: str, labels: Labels, read: Callable[[], Mapping[Labels, float]]
    ) -> None:
        self.name, self.documentation, self.label_names, self._read = name, documentation, labels, read

    @property
    def families(self) -> Mapping[str, str]:
        """The names it exports and the type of each."""
        return {self.name: "gauge"}

    def flush(self) -> None:
        """Nothing waits."""

    def snapshot(self) -> Build:
        """The numbers now, as a family still to be built."""
        rows = dict(self._read())

        def build() -> Iterable[Family]:
            family = Family(self.name, self.documentation, "gauge")
            for values, value in rows.items():
                family.add_sample(self.name, dict(zip(self.label_names, values, strict=True)), value)
            return (family,)

        return build


class BoundedLabel:
    """Keeps the values of one label within ``limit``: the first ones keep their names, the rest are ``other``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, str] = {}
        self.overflowed = 0
        """How many different values became ``other``, counted up to 10,000."""
        self._others: set[str] = set()

    def __call__(self, value: str) -> str:
        """The label for a value."""
        known = self._known.get(value)
        if known is not None:
            return known
        if len(self._known) < self._limit:
            self._known[value] = value
            return value
        if len(self._others) < 10_000:
            self._others.add(value)
            self.overflowed = len(self._others)
        return "other"


def _checked(values: Labels, names: Labels) -> Labels:
    if len(values) != len(names):
        raise ValueError(f"labels {names} need {len(names)} values; got {values}")
    return values


def _edge(bound: float) -> str:
    return f"{bound:.10g}"
