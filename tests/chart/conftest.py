"""Chart tests need Helm; where it is not, each test says so."""

from __future__ import annotations

import pytest

from tests.cluster.assets import helm


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    if helm() is None:
        pytest.skip(
            "did not run: no Helm here. Put helm on PATH, or into the directory of KUBEBUILDER_ASSETS"
        )
