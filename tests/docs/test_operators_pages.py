"""What runbooks and logs tell an operator to set or to run is there to be set and to be run."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.monitoring.rule_files import ROOT

RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
ALERTS = "\n".join(path.read_text() for path in sorted((ROOT / "helm" / "envmesh" / "alerts").glob("*.yaml")))
SCHEMA: dict[str, Any] = json.loads((ROOT / "helm" / "envmesh" / "values.schema.json").read_text())
NAMED = sorted(set(re.findall(r"`([a-z]\w*(?:\.[a-z]\w*)+)`", RUNBOOKS)))


def found(path: str, schema: dict[str, Any]) -> bool:
    """Whether values of this schema may have this one."""
    name, _, rest = path.partition(".")
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    properties = schema.get("properties", {})
    return name in properties and (not rest or found(rest, properties[name]))


@pytest.mark.parametrize("path", NAMED)
def test_a_value_that_a_runbook_names_is_one_of_the_chart_or_of_a_pool(path: str):
    assert found(path, SCHEMA) or found(path, SCHEMA["$defs"]["pool"])


@pytest.mark.parametrize(
    "word", ["maxHosts", "drain_deadline", "drain_patience", "terminationGracePeriodSeconds"]
)
def test_no_runbook_and_no_alert_names_a_setting_that_pools_do_not_have(word: str):
    assert not re.search(rf"(?<![.\w]){word}", RUNBOOKS + ALERTS)


def test_a_signal_is_sent_with_what_the_image_has():
    logs = (ROOT / "docs" / "logs.md").read_text()
    (command,) = re.findall(r"kubectl exec (.*)", logs)
    assert command.endswith(
        "-- sh -c 'kill -USR1 1'"
    )  # it has a shell, which knows `kill`, and no program of that name


def test_refusals_are_not_blamed_on_the_api_server_alone():
    (section,) = re.findall(r"^## EnvmeshScalingRefused$(.*?)(?=^## )", RUNBOOKS, re.MULTILINE | re.DOTALL)
    assert "a roll is under way" in section
    (alert,) = re.findall(r"alert: EnvmeshScalingRefused$(.*?)(?=- alert:)", ALERTS, re.MULTILINE | re.DOTALL)
    assert "or the pool was not as they were planned for" in alert
