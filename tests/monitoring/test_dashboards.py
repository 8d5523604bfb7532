"""The dashboards: what the code gives, legible, complete, and valid in Grafana's own eyes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.monitoring.rule_files import dashboards, panels
from tools.generate_dashboards import rendered

NAMES = ("autoscaler.json", "environment.json", "fleet.json", "runtime.json", "trainers.json")
COLUMNS = 24


def drawn(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in panels(dashboard) if panel["type"] != "row"]


def test_they_are_what_the_code_gives():
    assert sorted(rendered()) == sorted(NAMES) == sorted(dashboards())
    for name, content in rendered().items():
        assert json.loads(content) == dashboards()[name], f"{name}: run `make dashboards` and commit"


@pytest.mark.parametrize("name", NAMES)
def test_the_sdks_types_take_them_and_give_them_back(name):
    there = dashboards()[name]
    for annotation in there["annotations"]["list"]:
        del annotation["titleFormat"]  # as in tools/generate_dashboards.py
    again = json.loads(json.dumps(Dashboard.from_json(there), cls=JSONEncoder))
    for variable in again["templating"]["list"]:
        for extra in ("auto", "auto_count", "auto_min"):
            variable.pop(extra, None)
    assert again == there


@pytest.mark.parametrize("name", NAMES)
def test_panels_fill_the_grid_and_cover_one_another_nowhere(name):
    taken: dict[tuple[int, int], str] = {}
    bottom = 0
    for panel in panels(dashboards()[name]):
        place, what = panel["gridPos"], panel["title"]
        assert place["x"] + place["w"] <= COLUMNS
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{what} lies on {taken[x, y]}"
                taken[x, y] = what
        bottom = max(bottom, place["y"] + place["h"])
    assert len(taken) == COLUMNS * bottom, "there are holes"


@pytest.mark.parametrize("name", NAMES)
def test_each_panel_says_what_it_is(name):
    dashboard = dashboards()[name]
    assert dashboard["uid"] == f"envmesh-{name.removesuffix('.json')}"
    numbers = [panel["id"] for panel in panels(dashboard)]
    assert len(set(numbers)) == len(numbers)
    titles = [panel["title"] for panel in drawn(dashboard)]
    assert len(set(titles)) == len(titles)
    for panel in drawn(dashboard):
        assert len(panel["description"]) > 15, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]
        for target in panel["targets"]:
            assert 'cluster=~"$cluster",namespace=~"$namespace"' in target["expr"], panel["title"]


def test_they_have_variables_links_annotations_and_heatmaps():
    found = dashboards()
    for name, dashboard in found.items():
        variables = [variable["name"] for variable in dashboard["templating"]["list"]]
        assert variables[:3] == ["datasource", "cluster", "namespace"], name
        assert [link["type"] for link in dashboard["links"]] == ["dashboards"]
        assert [a["name"] for a in dashboard["annotations"]["list"]] == ["Scaling", "Deploys", "Drains"]
        for annotation in dashboard["annotations"]["list"]:
            labels = re.findall(r"{{(\w+)}}", annotation["titleFormat"])
            assert labels, "it says nothing"
            assert set(labels) <= set(re.findall(r"\w+", annotation["expr"]))
    names = {v["name"] for d in found.values() for v in d["templating"]["list"]}
    assert names == {"datasource", "cluster", "namespace", "environment", "version", "tenant", "pool"}
    heat = [
        panel["title"]
        for dashboard in found.values()
        for panel in drawn(dashboard)
        if panel["type"] == "heatmap"
    ]
    assert {"Return", "Environment's time in a step", "Wait for a slot"} <= set(heat)
    linked = [
        link["url"].split("?")[0].removeprefix("/d/")
        for dashboard in found.values()
        for panel in drawn(dashboard)
        for link in panel["fieldConfig"]["defaults"].get("links", ())
    ]
    assert set(linked) <= {dashboard["uid"] for dashboard in found.values()}
    assert len(linked) > 5


def typescript(dashboard: dict[str, Any]) -> str:
    """The dashboard and each of its panels as constants of the types they must have."""
    lines = ["import type { WireDashboard, WirePanel, WireOptions, WireTarget } from './wire';"]
    for number, panel in enumerate(drawn(dashboard)):
        options = f"WireOptions[{json.dumps(panel['type'])}]"
        lines.append(f"export const panel{number}: WirePanel = {json.dumps(panel)};")
        lines.append(f"export const options{number}: {options} = {json.dumps(panel['options'])};")
        lines += [
            f"export const target{number}_{index}: WireTarget = {json.dumps(target)};"
            for index, target in enumerate(panel["targets"])
        ]
    plain = json.loads(json.dumps(dashboard))
    for annotation in plain["annotations"]["list"]:
        for field in ("expr", "titleFormat"):  # the data source's own, of which the schema knows nothing
            del annotation[field]
    lines.append(f"export const dashboard: WireDashboard = {json.dumps(plain)};")
    return "\n".join(lines)


@pytest.mark.node
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")),
    reason="the dashboards were not held to Grafana's schema: node or npm is not installed",
)
def test_they_are_valid_against_grafanas_schema(tmp_path):
    """@grafana/schema is generated from the schema that Grafana itself is built with."""
    for path in (Path(__file__).parent / "grafana").iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    install = [
        "npm",
        "ci",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefer-offline",
        "--legacy-peer-deps",
    ]
    installed = subprocess.run(
        install, cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False
    )
    assert installed.returncode == 0, installed.stderr
    for name, dashboard in dashboards().items():
        (tmp_path / f"{name.removesuffix('.json')}.ts").write_text(typescript(dashboard))

    def checked() -> subprocess.CompletedProcess[str]:
        command = ["node", "node_modules/typescript/bin/tsc", "-p", "."]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)

    valid = checked()
    assert valid.returncode == 0, valid.stdout[:4000]
    wrong = next(iter(dashboards().values()))
    drawn(wrong)[0]["options"]["colorMode"] = "rainbow"
    (tmp_path / "wrong.ts").write_text(typescript(wrong))
    assert "rainbow" in checked().stdout, "the check lets wrong dashboards pass"
