"""docs/metrics.md is held to what the code registers: every metric, its type, its labels and its meaning."""

from __future__ import annotations

import json
import re

from envmesh.instruments import Instrument
from envmesh_autoscaler.plan import Phase
from tests.monitoring.registered import by_service, names
from tests.monitoring.rule_files import ROOT, metrics_of, records

PAGE = (ROOT / "docs" / "metrics.md").read_text()
BLAME = (ROOT / "docs" / "is-it-the-environment.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| (.*?) \| `(.*)` \|$", re.MULTILINE)


def rows() -> dict[str, tuple[str, str, str, str]]:
    return {
        name: (kind, labels, what, ask.replace("\\|", "|"))
        for name, kind, labels, what, ask in ROW.findall(PAGE)
    }


def queries() -> list[str]:
    """Every query of the documentation."""
    blocks = re.findall(r"^```promql\n(.*?)^```", BLAME, re.DOTALL | re.MULTILINE)
    return [row[3] for row in rows().values()] + [line for block in blocks for line in block.splitlines()]


async def registered() -> dict[str, Instrument]:
    found = [instrument for instruments in (await by_service()).values() for instrument in instruments]
    return {next(iter(instrument.families)): instrument for instrument in found}


async def test_the_page_has_every_metric_and_no_other():
    assert set(rows()) == set(await registered())


def test_what_it_says_of_the_cost_is_what_was_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "metrics_cost.json").read_text())
    inline, process = (
        f"{measured[isolation]['cost']:.1%}".replace("%", " %") for isolation in ("inline", "process")
    )
    says = " ".join(PAGE.split())
    assert (
        f"{inline} of the steps a second of an environment that does nothing, inline, and {process} in worker"
        in says
    )
    assert f"medians of {measured['starts'] * measured['ratios']} ratios" in says
    assert max(measured["inline"]["cost"], measured["process"]["cost"]) <= measured["bound"]


async def test_types_labels_and_meanings_are_the_codes():
    for name, instrument in (await registered()).items():
        kind, labels, what, _ = rows()[name]
        assert kind == instrument.families[name], name
        assert labels == (", ".join(f"`{label}`" for label in instrument.label_names) or "–"), name
        assert what == instrument.documentation, name


async def test_every_label_is_explained():
    explained = re.search(r"## What labels say\n(.*?)\n## ", PAGE, re.DOTALL)
    assert explained
    told = set()
    for row in re.findall(r"^\| (`.*?) \|", explained.group(1), re.MULTILINE):
        told |= set(re.findall(r"`(\w+)`", row))
    assert told == {label for instrument in (await registered()).values() for label in instrument.label_names}


def test_the_states_of_the_plans_hosts_are_the_codes():
    (told,) = re.findall(r"^\| `state` of the plan's hosts \| (.*) \|$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", told)) == {"wanted", "replicas", "unschedulable", *Phase}


async def test_what_a_broker_exports_as_hosts_do_is_said_there():
    services = await by_service()
    host, broker = ({instrument.name for instrument in services[name]} for name in ("host", "broker"))
    section = PAGE.split("\n## Broker\n", 1)[1].split("\n|", 1)[0]
    listed = {
        name for name in rows() if f"| `{name}` |" in PAGE.split("\n## Broker\n", 1)[1].split("\n## ", 1)[0]
    }
    assert {f"`{name}`" for name in (host & broker) - listed} == set(re.findall(r"`envmesh_\w+`", section))


async def test_every_query_names_what_the_code_registers():
    known = await names() | set(records())
    for query in queries():
        assert metrics_of(query), query
        assert metrics_of(query) <= known, query
    for name, (_, _, _, ask) in rows().items():
        assert any(metric.startswith(name.removesuffix("_total")) for metric in metrics_of(ask)), name


async def test_names_are_in_base_units_and_bounded():
    for name, instrument in (await registered()).items():
        assert not re.search(r"_(milliseconds|ms|minutes|kb|mb|percent)(_|$)", name), name
        assert not set(instrument.label_names) & {
            "episode",
            "episode_id",
            "host_id",
            "client_id",
            "lease_id",
            "seed",
        }
        if name.startswith("envmesh_client_"):
            assert "tenant" not in instrument.label_names
        if "tenant" in instrument.label_names:
            assert instrument.families[name] != "histogram", name
