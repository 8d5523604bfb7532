"""The values that docs/kubernetes.md shows are values that the chart takes."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.chart.rendering import render
from tests.cluster.assets import ROOT, helm

pytestmark = pytest.mark.chart

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
VALUES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", VALUES, ids=range(len(VALUES)))
def test_the_values_are_taken(text: str) -> None:
    if helm() is None:
        pytest.skip(
            "did not run: no Helm here. Put helm on PATH, or into the directory of KUBEBUILDER_ASSETS"
        )
    assert render(yaml.safe_load(text), namespace="rl", name="envmesh")
