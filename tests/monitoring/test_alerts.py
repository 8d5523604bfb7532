"""The alerts, under Prometheus's own rule tester: each fires when it should, and is silent a step before."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from tests.monitoring.alert_cases import CASES, Case
from tests.monitoring.rule_files import ALERTS, ROOT, alerts, needs_prometheus

pytestmark = [needs_prometheus, pytest.mark.xdist_group("promtool")]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=50, check=False)


def test_the_rule_files_are_as_prometheus_has_them():
    checked = promtool("check", "rules", *map(str, ALERTS))
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_every_alert_has_cases():
    assert set(CASES) == set(alerts())


def rule_test(name: str, case: Case) -> list[dict[str, object]]:
    """Promtool's form of the two cases."""
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
        for given, fires in ((case.fires, True), (case.silent, False))
    ]


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_fires_when_it_should_and_only_then(name, tmp_path):
    path = tmp_path / "case.yaml"
    cases = {
        "rule_files": [
            str(path) for path in ALERTS if path.name == "recording.yaml" or f"{name}\n" in path.read_text()
        ],
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
    headings = re.findall(r"^## (\w+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert name in headings
    assert anchor == name.lower()
