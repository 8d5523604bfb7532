"""What the chart renders is valid by the strict schemas of several versions of Kubernetes, from the oldest it takes on.

The schemas are those of the package kubernetes-validate, made from each version's own OpenAPI. Kinds that others
define (KEDA, cert-manager, the Prometheus operator) have none there; a real API server judges those
(test_api_server.py).
"""

from __future__ import annotations

import importlib.resources
import json
import re
from functools import cache
from typing import Any

import jsonschema
import pytest
import referencing

from tests.chart.matrix import MATRIX
from tests.chart.rendering import CHART, Object, render

pytestmark = pytest.mark.chart

VERSIONS = ("1.29", "1.31", "1.33", "1.35", "1.37")
FOREIGN = ("keda.sh/", "cert-manager.io/", "monitoring.coreos.com/")


@cache
def directory(version: str) -> Any:
    """Where the strict schemas of a version are."""
    schemas = importlib.resources.files("kubernetes_validate").joinpath("kubernetes-json-schema")
    (found,) = [
        each for each in schemas.iterdir() if re.fullmatch(rf"v{version}\.\d+-local-strict", each.name)
    ]
    return found


@cache
def definitions(version: str) -> Any:
    """A registry with everything that the schemas of a version refer to."""
    text = directory(version).joinpath("_definitions.json").read_text()
    return referencing.Resource.from_contents(json.loads(text)) @ referencing.Registry()


@cache
def validator(version: str, api_version: str, kind: str) -> Any:
    """What judges objects of a kind."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = json.loads(directory(version).joinpath(f"{kind.lower()}-{group}.json").read_text())
    registry = referencing.Resource.from_contents(schema) @ definitions(version)
    return jsonschema.Draft202012Validator(schema, registry=registry)


def wrong(version: str, each: Object) -> list[str]:
    """What is wrong with an object."""
    where = f"{each['kind']}/{each['metadata']['name']}"
    found = validator(version, each["apiVersion"], each["kind"]).iter_errors(each)
    return [f"{where}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


@cache
def rendered(name: str) -> list[Object]:
    return [each for each in render(MATRIX[name]) if not each["apiVersion"].startswith(FOREIGN)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", list(MATRIX))
def test_every_object_is_valid(name: str, version: str) -> None:
    problems = [problem for each in rendered(name) for problem in wrong(version, each)]
    assert not problems, "\n".join(problems)


def test_the_schemas_refuse_what_no_kubernetes_knows() -> None:
    deployment = next(each for each in rendered("defaults") if each["kind"] == "Deployment")
    spelled = {**deployment, "spec": {**deployment["spec"], "replicaz": 3}}
    assert any("replicaz" in problem for problem in wrong(VERSIONS[-1], spelled))


def test_the_oldest_version_that_the_chart_takes_is_among_them() -> None:
    assert f'kubeVersion: ">={VERSIONS[0]}.0-0"' in (CHART / "Chart.yaml").read_text()
