"""A real API server takes every object of the matrix in a strict server-side dry run, and each account may do what it
must and nothing else.

It judges by the schemas of its own version, which the output names; test_schemas.py asks those of others.
KEDA's objects are judged by KEDA's own definitions; those of cert-manager and of the Prometheus operator are not here,
so of these the API server sees the envelope only.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chart import judge
from tests.chart.matrix import MATRIX
from tests.chart.rendering import of_kind, render
from tests.cluster.api import ApiError
from tests.cluster.assets import why_not
from tests.cluster.cluster import until
from tests.cluster.control_plane import ControlPlane

pytestmark = [
    pytest.mark.chart, pytest.mark.cluster, pytest.mark.xdist_group("chart-api"), pytest.mark.timeout(300),
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    if reason := why_not(("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")):
        pytest.skip(reason)
    with ControlPlane(tmp_path_factory.mktemp("judge")) as plane:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        plane.api.create("/api/v1/namespaces", {"metadata": {"name": "rl", "labels": labels}})
        judge.define_kinds(plane)
        print("judged by Kubernetes", plane.api.get("/version")["gitVersion"])
        yield plane


@pytest.mark.parametrize("name", list(MATRIX))
def test_every_object_is_taken(server: ControlPlane, name: str) -> None:
    wrong = judge.refused(server, render(MATRIX[name]))
    assert not wrong, "\n".join(wrong)


def test_each_account_may_do_what_it_must_and_nothing_else(server: ControlPlane) -> None:
    objects = render(MATRIX["service accounts"])
    for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
        for each in of_kind(objects, kind).values():
            judge.apply(server, each, dry=False)
    everybody = judge.rights(judge.caller(server, "rl", "default"), "rl")
    for account, wanted in judge.expected_rights("m-envmesh", ["cartpole"]).items():
        caller = judge.caller(server, "rl", account)
        until(lambda c=caller, w=wanted: judge.rights(c, "rl") >= w, f"{account} has its rights", 20)
        assert judge.rights(caller, "rl") - everybody == wanted, account
        with pytest.raises(ApiError) as refused:
            caller.get("/api/v1/namespaces/rl/secrets/m-envmesh-lease-keys")
        assert refused.value.status == 403
