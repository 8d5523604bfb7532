"""Cluster tests need root and the programs of a control plane; where these are not, each test says what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.assets import CLUSTER, CONTROL_PLANE, why_not
from tests.cluster.cluster import Cluster, passable
from tests.cluster.control_plane import ControlPlane


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd, API server and controllers, for this module."""
    if reason := why_not(CONTROL_PLANE):
        pytest.skip(reason)
    with ControlPlane(passable(tmp_path_factory.mktemp("plane"))) as plane:
        yield plane


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three nodes that run pods, for this module."""
    if reason := why_not(CLUSTER):
        pytest.skip(reason)
    with Cluster(passable(tmp_path_factory.mktemp("cluster")), nodes=3) as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The short form leaves out what is slow, and says so."""
    if os.environ.get("ENVMESH_CLUSTER") == "all":
        return
    reason = "did not run: not in the short form of the cluster tests; `make cluster` runs all of them"
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
