"""The alerts, under Prometheus's own rule tester: each fires when it should, and is silent a step before."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.monitoring.alert_cases import CASES, Case
from tests.monitoring.rule_files import (
    ALERTS,
    ROOT,
    alerts,
    dashboards,
    metrics_of,
    needs_prometheus,
    panels,
    rules,
)

pytestmark = [needs_prometheus, pytest.mark.xdist_group("promtool")]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=50, check=False)


def test_the_rule_files_are_as_prometheus_has_them():
    checked = promtool("check", "rules", *map(str, ALERTS))
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_every_alert_has_cases():
    assert set(CASES) == set(alerts())


def rule_test(name: str, case: Case) -> list[dict[str, object]]:
    """Promtool's form of the cases."""
    return [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in given.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                    "eval_time": f"{case.minutes}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for given, fires in (
            *((given, True) for given in (case.fires, *case.more_fires)),
            *((given, False) for given in (case.silent, *case.more_silent)),
        )
    ]


def needed_by(name: str) -> list[dict[str, Any]]:
    """The alert's rule, after the recorded series that it asks for: all of them over ten hours take half a minute."""
    rule = alerts()[name]
    recorded = [record for record in rules() if record.get("record") in metrics_of(rule["expr"])]
    return [*recorded, rule]


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_fires_when_it_should_and_only_then(name, tmp_path):
    rule_file = tmp_path / "rules.yaml"
    rule_file.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": needed_by(name)}]}, width=1000))
    path = tmp_path / "case.yaml"
    cases = {
        "rule_files": [str(rule_file)],
        "evaluation_interval": "1m",
        "tests": rule_test(name, CASES[name]),
    }
    path.write_text(yaml.safe_dump(cases, width=1000))
    tested = promtool("test", "rules", str(path))
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", sorted(alerts()))
def test_it_says_what_happened_and_what_to_do(name):
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    annotations = rule["annotations"]
    assert len(annotations["summary"]) > 10
    assert len(annotations["description"]) > 20
    page, anchor = annotations["runbook"].split("#")
    sections = dict(
        re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    )
    what, where, action = re.split(r"\*\*(?:Look|Do):\*\*", sections[name])
    assert min(len(part.strip()) for part in (what, where, action)) > 20, (
        "what it means, where to look, what to do"
    )
    assert anchor == name.lower()


def test_the_runbooks_name_panels_that_there_are():
    titles = {panel["title"] for dashboard in dashboards().values() for panel in panels(dashboard)}
    legends = {"Targets"}  # Prometheus's own page
    for page in ("runbooks.md", "is-it-the-environment.md"):
        text = (ROOT / "docs" / page).read_text()
        named = set(re.findall(r"(?<!\*)\*([A-Z][^*\n]+[^*])\*(?!\*)", text))
        pages = {"Runtime and recovery", "Trainers and tenants", "Fleet", "Environment", "Autoscaler"}
        assert {name.removesuffix(" at 0") for name in named} - titles - legends - pages == set(), page
