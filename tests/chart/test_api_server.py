"""A real API server takes every object of the matrix in a strict server-side dry run, and each account may do what it
must and nothing else.

It judges by the schemas of its own version, which the output names; other versions of Kubernetes are not judged here.
KEDA's objects are judged by KEDA's own definitions; those of cert-manager and of the Prometheus operator are not here,
so of these the API server sees the envelope only.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chart.matrix import MATRIX
from tests.chart.rendering import Object, of_kind, render
from tests.cluster.api import Api, ApiError
from tests.cluster.assets import assets, why_not
from tests.cluster.cluster import until
from tests.cluster.control_plane import ControlPlane

pytestmark = [
    pytest.mark.chart, pytest.mark.cluster, pytest.mark.xdist_group("chart-api"), pytest.mark.timeout(300),
]  # fmt: skip

KINDS = {
    "ConfigMap": "/api/v1/{}/configmaps",
    "Secret": "/api/v1/{}/secrets",
    "Service": "/api/v1/{}/services",
    "ServiceAccount": "/api/v1/{}/serviceaccounts",
    "Deployment": "/apis/apps/v1/{}/deployments",
    "Job": "/apis/batch/v1/{}/jobs",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/{}/horizontalpodautoscalers",
    "PodDisruptionBudget": "/apis/policy/v1/{}/poddisruptionbudgets",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/{}/networkpolicies",
    "Role": "/apis/rbac.authorization.k8s.io/v1/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/{}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "ScaledObject": "/apis/keda.sh/v1alpha1/{}/scaledobjects",
    "TriggerAuthentication": "/apis/keda.sh/v1alpha1/{}/triggerauthentications",
    "Certificate": "/apis/cert-manager.io/v1/{}/certificates",
    "ServiceMonitor": "/apis/monitoring.coreos.com/v1/{}/servicemonitors",
    "PodMonitor": "/apis/monitoring.coreos.com/v1/{}/podmonitors",
    "PrometheusRule": "/apis/monitoring.coreos.com/v1/{}/prometheusrules",
}
"""By kind, where its objects are; {} is the namespace."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    if reason := why_not(("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")):
        pytest.skip(reason)
    with ControlPlane(tmp_path_factory.mktemp("judge")) as plane:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        plane.api.create("/api/v1/namespaces", {"metadata": {"name": "rl", "labels": labels}})
        directory = assets(keda=True)
        if directory is not None and (directory / "keda-crds").is_dir():
            plane.run("kubectl", "apply", "--server-side", "-f", str(directory / "keda-crds"))
        else:
            _define(plane, "keda.sh", "v1alpha1", ["ScaledObject", "TriggerAuthentication"])
        _define(plane, "cert-manager.io", "v1", ["Certificate"])
        _define(plane, "monitoring.coreos.com", "v1", ["ServiceMonitor", "PodMonitor", "PrometheusRule"])
        for kind in ("Certificate", "ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject"):
            until(lambda k=kind: _known(plane, k), f"{kind} is known", 60)
        print("judged by Kubernetes", plane.api.get("/version")["gitVersion"])
        yield plane


def _known(plane: ControlPlane, kind: str) -> bool:
    try:
        return plane.api.find(KINDS[kind].format("namespaces/rl")) is not None
    except ApiError as error:
        if error.status == 429:  # its storage is being made
            return False
        raise


def _define(plane: ControlPlane, group: str, version: str, kinds: list[str]) -> None:
    """A definition that takes any content."""
    for kind in kinds:
        plural = KINDS[kind].rpartition("/")[2]
        any_ = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        entry = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": any_}}
        spec = {
            "group": group, "scope": "Namespaced", "versions": [entry],
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
        }  # fmt: skip
        plane.api.create(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            {"metadata": {"name": f"{plural}.{group}"}, "spec": spec},
        )


def apply(plane: ControlPlane, each: Object, *, dry: bool) -> None:
    path = KINDS[each["kind"]].format(f"namespaces/{each['metadata'].get('namespace', 'rl')}")
    query = "fieldManager=test&force=true&fieldValidation=Strict" + ("&dryRun=All" if dry else "")
    plane.api.call(
        "PATCH", f"{path}/{each['metadata']['name']}?{query}", each, content="application/apply-patch+yaml"
    )


@pytest.mark.parametrize("name", list(MATRIX))
def test_every_object_is_taken(server: ControlPlane, name: str) -> None:
    wrong = []
    for each in render(MATRIX[name]):
        try:
            apply(server, each, dry=True)
        except ApiError as error:
            wrong.append(f"{each['kind']} {each['metadata']['name']}: {error}")
    assert not wrong, "\n".join(wrong)


MAY: dict[str, set[tuple[str, str]]] = {
    "m-envmesh-broker": {("tokenreviews.authentication.k8s.io", "create")},
    "m-envmesh-autoscaler": {
        *(("pods", verb) for verb in ("list", "watch", "patch")),
        *(("deployments.apps", verb) for verb in ("get", "list", "watch")),
        *(("nodes", verb) for verb in ("list", "watch")),
        ("leases.coordination.k8s.io", "create"),
    },
    "m-envmesh-pool-cartpole": set(),
}
"""By account, what it may do to any object of a kind."""

NAMED: dict[str, set[tuple[str, str, str]]] = {
    "m-envmesh-autoscaler": {
        *(("deployments/scale.apps", "m-envmesh-pool-cartpole", verb) for verb in ("get", "update")),
        ("deployments.apps", "m-envmesh-pool-cartpole", "patch"),
        *(("leases.coordination.k8s.io", "m-envmesh-autoscaler", verb) for verb in ("get", "update")),
    }
}
"""By account, what it may do to one object."""


def test_each_account_may_do_what_it_must_and_nothing_else(server: ControlPlane) -> None:
    objects = render(MATRIX["service accounts"])
    for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
        for each in of_kind(objects, kind).values():
            apply(server, each, dry=False)
    everybody = _rights(server.caller(_token(server, "default")))
    for account, may in MAY.items():
        wanted = {(*pair, "") for pair in may} | {
            (what, verb, name) for what, name, verb in NAMED.get(account, set())
        }
        caller = server.caller(_token(server, account))
        until(lambda c=caller, w=wanted: _rights(c) >= w, f"{account} has its rights", 20)
        assert _rights(caller) - everybody == wanted, account
        with pytest.raises(ApiError) as refused:
            caller.get("/api/v1/namespaces/rl/secrets/m-envmesh-lease-keys")
        assert refused.value.status == 403


def _token(plane: ControlPlane, account: str) -> str:
    path = f"/api/v1/namespaces/rl/serviceaccounts/{account}/token"
    return str(plane.api.create(path, {"spec": {"expirationSeconds": 600}})["status"]["token"])


def _rights(caller: Api) -> set[tuple[str, str, str]]:
    """Everything that the API server says this caller may do in the namespace, as (resource, verb, name)."""
    asked = {"spec": {"namespace": "rl"}}
    answer = caller.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", asked)["status"]
    assert not answer["incomplete"]
    return {
        (f"{resource}.{group}" if group else resource, verb, name)
        for rule in answer["resourceRules"]
        for group in rule.get("apiGroups") or [""]
        for resource in rule.get("resources", [])
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or [""]
    }
