"""Rendering the chart with Helm."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.assets import ROOT, helm

CHART = ROOT / "helm" / "envmesh"
Object = dict[str, Any]


class Refused(Exception):
    """Helm does not render these values."""


def render(
    values: Mapping[str, Any] | None = None, *, namespace: str = "rl", name: str = "m"
) -> list[Object]:
    """What the chart renders, hooks included.

    Raises:
        Refused: with what Helm says.
    """
    said = _helm("template", name, str(CHART), "--namespace", namespace, values=values)
    return [each for each in yaml.load_all(said, yaml.CSafeLoader) if each]


def notes(values: Mapping[str, Any] | None = None) -> str:
    """What Helm tells the operator after an installation as release m into rl. No cluster is asked.

    Raises:
        Refused: with what Helm says.
    """
    said = _helm("install", "m", str(CHART), "--namespace", "rl", "--dry-run=client", values=values)
    return said.partition("NOTES:\n")[2]


def _helm(*command: str, values: Mapping[str, Any] | None) -> str:
    done = subprocess.run(
        [helm() or "helm", *command, "--values", "-"],
        input=yaml.safe_dump(dict(values or {})),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise Refused(done.stderr)
    return done.stdout


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind, by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """The pods that objects make: (kind/name, spec)."""
    for each in objects:
        if each["kind"] in ("Deployment", "Job"):
            yield f"{each['kind']}/{each['metadata']['name']}", each["spec"]["template"]["spec"]


def templates() -> list[Path]:
    """The chart's templates."""
    return sorted((CHART / "templates").rglob("*.yaml"))
