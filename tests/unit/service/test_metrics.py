import asyncio
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from envmesh_service.metrics import (
    DURATION_BUCKETS,
    REWARD_BUCKETS,
    BoundedLabel,
    Exemplar,
    Exporter,
    HistogramSeries,
    Registry,
)


def samples(registry):
    families = text_string_to_metric_families(registry.text().decode())
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_counters_start_at_zero_where_their_labels_are_known():
    registry = Registry()
    counter = registry.counter("envmesh_things_total", "Things.", ("kind",), known=[("a",), ("b",)])
    counter.add(2, "a")
    counter.labels("c").value += 1
    found = samples(registry)
    assert [found["envmesh_things_total", ("kind", kind)] for kind in "abc"] == [2, 0, 1]
    with pytest.raises(ValueError, match="1 values"):
        counter.add(1, "a", "b")
    with pytest.raises(ValueError, match="already"):
        registry.counter("envmesh_things_total", "Again.")


def test_what_the_hot_path_left_in_a_list_is_there_at_a_scrape():
    registry = Registry()
    series = registry.histogram("envmesh_wait_seconds", "Waits.").labels()
    series.pending.extend([0.001, 0.002, 3.0])
    found = samples(registry)
    assert found["envmesh_wait_seconds_count",] == 3
    assert found["envmesh_wait_seconds_sum",] == pytest.approx(3.003)
    assert found["envmesh_wait_seconds_bucket", ("le", "0.001")] == 1
    assert found["envmesh_wait_seconds_bucket", ("le", "+Inf")] == 3
    assert series.pending == []


def test_signed_values_have_gain_and_loss_in_place_of_a_sum():
    registry = Registry()
    registry.histogram("envmesh_episode_reward", "Rewards.", buckets=REWARD_BUCKETS).labels().observe_many(
        [-3.0, 0.0, 2.0]
    )
    found = samples(registry)
    assert found["envmesh_episode_reward_gain_total",] == 2
    assert found["envmesh_episode_reward_loss_total",] == 3
    assert found["envmesh_episode_reward_count",] == 3
    assert found["envmesh_episode_reward_bucket", ("le", "0")] == 2
    assert ("envmesh_episode_reward_sum",) not in found


def test_buckets_are_as_the_design_says():
    assert REWARD_BUCKETS[0] == -10_000
    assert REWARD_BUCKETS[-1] == 10_000
    assert 0.0 in REWARD_BUCKETS
    assert min(abs(bound) for bound in REWARD_BUCKETS if bound) == 0.01
    assert list(REWARD_BUCKETS) == sorted(REWARD_BUCKETS)
    assert list(DURATION_BUCKETS) == sorted(DURATION_BUCKETS)


@given(st.lists(st.floats(-20_000, 20_000), max_size=100))
def test_many_values_at_once_count_as_one_by_one(values):
    one, many, array = (HistogramSeries(REWARD_BUCKETS) for _ in range(3))
    for value in values:
        one.observe(value)
    many.observe_many(values)
    array.observe_many(np.asarray(values))
    for other in (many, array):
        assert other.counts == one.counts
        assert other.gain == pytest.approx(one.gain)
        assert other.loss == pytest.approx(one.loss, abs=1e-6)


@given(st.lists(st.floats(0, 20_000), min_size=100, max_size=200))
def test_where_nothing_is_lost_the_loss_does_not_fall(values):
    series = HistogramSeries(REWARD_BUCKETS)
    series.observe_many([-0.5, *values])
    series.observe_many(values)
    assert series.loss == 0.5


def test_values_that_were_bucketed_elsewhere_are_added():
    series = HistogramSeries((1.0, 2.0))
    series.add_counts([1, 2, 3], 12.5)
    series.observe(1.5)
    assert (series.counts, series.gain) == ([1, 3, 3], 14.0)


def test_a_label_keeps_its_first_values_and_counts_the_rest():
    label = BoundedLabel(2)
    assert [label(value) for value in "abcacd"] == ["a", "b", "other", "a", "other", "other"]
    assert label.overflowed == 2


async def test_openmetrics_has_exemplars_and_the_plain_format_none():
    registry = Registry()
    series = registry.histogram("envmesh_wait_seconds", "Waits.").labels()
    registry.counter("envmesh_things_total", "Things.").add(3)
    series.observe_many([0.0011, 0.0012, 3.0])
    series.show(Exemplar({"trace_id": "0af7651916cd43dd8448eb211c80319c"}, 0.0012, 1_700_000_000.5))
    exporter = Exporter(registry)
    exporter.start("127.0.0.1", 0)

    def scrape(accept):
        url = f"http://127.0.0.1:{exporter.port}/metrics"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept})) as response:
            return response.headers["Content-Type"], response.read().decode()

    try:
        kind, text = await asyncio.to_thread(scrape, "application/openmetrics-text;version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        families = {family.name: family for family in openmetrics_families(text)}
        shown = [s for s in families["envmesh_wait_seconds"].samples if s.exemplar]
        assert [(s.labels["le"], s.exemplar.value) for s in shown] == [("0.0025", 0.0012)]
        assert shown[0].exemplar.labels == {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
        assert families["envmesh_things"].samples[0].value == 3
        _, text = await asyncio.to_thread(scrape, "text/plain;version=0.0.4")
        assert "trace_id" not in text
        assert 'envmesh_wait_seconds_bucket{le="0.0025"} 2.0' in text
    finally:
        await exporter.stop()


async def test_the_port_serves_from_the_loop_that_owns_the_numbers():
    registry = Registry()
    owner = asyncio.get_running_loop()
    registry.gauge(
        "envmesh_here", "1 in the loop.", (), lambda: {(): float(asyncio.get_running_loop() is owner)}
    )
    exporter = Exporter(registry)
    exporter.start("127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{exporter.port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        assert "envmesh_here 1.0" in text
        assert "envmesh_build_info{" in text
        assert "process_cpu_seconds_total" in text
        with pytest.raises(OSError, match=f"cannot serve metrics on 127.0.0.1:{exporter.port}"):
            Exporter(registry).start("127.0.0.1", exporter.port)
    finally:
        await exporter.stop()
    await exporter.stop()
