"""The times of batched steps: every step is counted once, and the sums are those of the clock."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envmesh.instruments import COARSE_DURATION_BUCKETS, HistogramSeries
from envmesh_host.step_times import EXACT_FROM, LONGEST_STRIDE, StepTimes, Timed, stride_of


def noted(*batches: tuple[list[float], int, int, float]) -> Timed:
    times = StepTimes()
    for stamps, stride, count, arrived in batches:
        times.note(array("d", stamps), stride, count, arrived)
    return times.timed()


@pytest.mark.parametrize(
    ("step_cost", "stride"), [(1e-7, LONGEST_STRIDE), (1e-6, 22), (4e-6, 5), (1e-5, 2), (3e-5, 1), (1.0, 1)]
)
def test_the_clock_is_read_as_often_as_the_histogram_can_tell(step_cost: float, stride: int) -> None:
    assert stride_of(step_cost) == stride


def test_single_steps_are_timed_one_by_one() -> None:
    timed = noted(([10.0, 10.5, 12.0], 1, 2, 9.0), ([20.0, 21.0], 1, 1, 19.0))
    assert timed.running.tolist() == [0.5, 1.5, 1.0]
    assert timed.running_counts.tolist() == [1, 1, 1]
    assert timed.elapsed.tolist() == [1.5, 3.0, 2.0]
    assert timed.waited.tolist() == [1.0, 1.5, 1.0]


def test_a_quick_group_counts_for_all_its_steps_and_the_last_may_be_shorter() -> None:
    timed = noted(([0.0, 4e-6, 6e-6], 4, 6, -1e-6))
    assert timed.running.tolist() == pytest.approx([1e-6, 1e-6])
    assert timed.running_counts.tolist() == timed.counts.tolist() == [4, 2]


def test_the_excess_of_a_slow_group_is_laid_to_one_step() -> None:
    timed = noted(([0.0, 4e-6, 0.5 + 4e-6], 4, 8, 0.0))
    series = HistogramSeries(COARSE_DURATION_BUCKETS)
    series.observe_many(timed.running, timed.running_counts)
    assert series.counts[0] == 7
    assert sum(series.counts) == 8
    assert series.counts[COARSE_DURATION_BUCKETS.index(1.0)] == 1
    assert series.gain == pytest.approx(0.5 + 4e-6)


@given(
    st.lists(
        st.tuples(
            st.integers(1, LONGEST_STRIDE),
            st.integers(1, 100),
            st.lists(st.floats(0.0, 1e-3), min_size=100, max_size=100),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_step_is_lost_and_no_time(batches: list[tuple[int, int, list[float]]]) -> None:
    times, steps, seconds = StepTimes(), 0, 0.0
    for stride, count, durations in batches:
        groups = -(-count // stride)
        stamps = array("d", [5.0, *(5.0 + np.cumsum(durations[:groups]))])
        times.note(stamps, stride, count, 4.0)
        steps += count
        seconds += stamps[-1] - stamps[0]
    timed = times.timed()
    assert times.steps == steps == timed.counts.sum() == timed.running_counts.sum()
    assert float(timed.running @ timed.running_counts) == pytest.approx(seconds, abs=1e-9)
    assert (timed.running >= 0).all()
    for values, counts in ((timed.running, timed.running_counts), (timed.elapsed, timed.counts)):
        series = HistogramSeries(COARSE_DURATION_BUCKETS)
        series.observe_many(values, counts)
        assert sum(series.counts) == steps


@given(st.lists(st.floats(0.0, 9e-6), min_size=1, max_size=64), st.floats(1e-7, 1e-6))
def test_quick_groups_are_counted_below_the_edge_and_no_slower(steps: list[float], cost: float) -> None:
    stride = min(3, stride_of(cost))
    clock = np.concatenate(([0.0], np.cumsum(steps)))
    stamps = array("d", [*clock[:-1:stride], clock[-1]])
    grouped, single = HistogramSeries(COARSE_DURATION_BUCKETS), HistogramSeries(COARSE_DURATION_BUCKETS)
    timed = noted((list(stamps), stride, len(steps), 0.0))
    grouped.observe_many(timed.running, timed.running_counts)
    single.observe_many(steps)
    assert EXACT_FROM >= 3 * 9e-6
    edge = COARSE_DURATION_BUCKETS.index(EXACT_FROM) + 1
    assert sum(grouped.counts[:edge]) == sum(single.counts[:edge]) == len(steps)
    assert grouped.gain == pytest.approx(single.gain)
