"""The rule files and dashboards of the chart, as the tests read them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = [
    "ALERTS",
    "ROOT",
    "alerts",
    "dashboards",
    "metrics_of",
    "needs_prometheus",
    "panels",
    "records",
    "rules",
]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "envmesh"
ALERTS = sorted((CHART / "alerts").glob("*.yaml"))

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not on this machine: apt-get install prometheus",
)

_AUTOSCALER = (
    "envmesh_plan_", "envmesh_leader", "envmesh_decision", "envmesh_actions_refused", "envmesh_scale_in",
    "envmesh_pool_max_hosts", "envmesh_pool_paused", "envmesh_pool_dry_run", "envmesh_pool_hpa",
    "envmesh_pool_hosts_refused", "envmesh_drain_oldest",
)  # fmt: skip


def rules() -> list[dict[str, Any]]:
    """Every rule of every file."""
    groups = [group for path in ALERTS for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts, by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def records() -> dict[str, str]:
    """The recorded series, and their expressions."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards, by file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel, those in collapsed rows included."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


_NAME = re.compile(r"\b(?:envmesh|grpc|process|python)[a-z0-9_:]*\b|\bup\b|\bALERTS\b")
_NOT_NAMES = re.compile(r'"[^"]*"|\bby\s*\([^)]*\)|\bon\s*\([^)]*\)|\bignoring\s*\([^)]*\)')


def metrics_of(expression: str) -> set[str]:
    """The metric names in an expression."""
    return set(_NAME.findall(_NOT_NAMES.sub(" ", expression))) - {
        "grpc_code",
        "grpc_method",
        "grpc_service",
        "grpc_type",
    }


def expressions() -> dict[str, str]:
    """Every expression of every panel and annotation, with Grafana's variables filled in, by where it stands."""
    found = {}
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel.get("targets", ()):
                found[f"{name}: {panel['title']}: {target['refId']}"] = target["expr"]
        for annotation in dashboard["annotations"]["list"]:
            found[f"{name}: annotation {annotation['name']}"] = annotation["expr"]
    filled = {}
    for where, expression in found.items():
        for variable in ("cluster", "namespace", "environment", "version", "tenant", "pool"):
            expression = expression.replace(f'"${variable}"', '".*"')
        filled[where] = expression.replace("$__rate_interval", "30s")
    return filled


def of_autoscaler(expression: str) -> bool:
    """Whether it asks for what only an autoscaler exports."""
    return any(metric.startswith(_AUTOSCALER) for metric in metrics_of(expression))
