"""A real API server as judge of rendered objects and of what accounts may do."""

from __future__ import annotations

from tests.chart.rendering import Object
from tests.cluster.api import Api, ApiError
from tests.cluster.assets import assets
from tests.cluster.cluster import until
from tests.cluster.control_plane import ControlPlane

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

Rights = set[tuple[str, str, str]]
"""What may be done, as (resource, verb, name); an empty name: any."""


def define_kinds(plane: ControlPlane) -> None:
    """Make the kinds known that others define: KEDA's as it defines them itself, the rest with any content."""
    directory = assets(keda=True)
    if directory is not None and (directory / "keda-crds").is_dir():
        plane.run("kubectl", "apply", "--server-side", "-f", str(directory / "keda-crds"))
    else:
        _define(plane, "keda.sh", "v1alpha1", ["ScaledObject", "TriggerAuthentication"])
    _define(plane, "cert-manager.io", "v1", ["Certificate"])
    _define(plane, "monitoring.coreos.com", "v1", ["ServiceMonitor", "PodMonitor", "PrometheusRule"])
    for kind in ("Certificate", "ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject"):
        until(lambda k=kind: _known(plane, k), f"{kind} is known", 60)


def apply(plane: ControlPlane, each: Object, *, dry: bool) -> None:
    """Server-side apply with strict validation. Raises: ApiError."""
    path = KINDS[each["kind"]].format(f"namespaces/{each['metadata'].get('namespace', 'rl')}")
    query = "fieldManager=test&force=true&fieldValidation=Strict" + ("&dryRun=All" if dry else "")
    plane.api.call(
        "PATCH", f"{path}/{each['metadata']['name']}?{query}", each, content="application/apply-patch+yaml"
    )


def refused(plane: ControlPlane, objects: list[Object]) -> list[str]:
    """What a dry run says against objects."""
    wrong = []
    for each in objects:
        try:
            apply(plane, each, dry=True)
        except ApiError as error:
            wrong.append(f"{each['kind']} {each['metadata']['name']}: {error}")
    return wrong


def expected_rights(release: str, pools: list[str]) -> dict[str, Rights]:
    """By account of a release (the prefix of its names), exactly what it may do beyond what everybody may."""
    autoscaler = f"{release}-autoscaler"
    return {
        f"{release}-broker": {("tokenreviews.authentication.k8s.io", "create", "")},
        autoscaler: {
            *(("pods", verb, "") for verb in ("list", "watch", "patch")),
            *(("deployments.apps", verb, "") for verb in ("get", "list", "watch")),
            *(("nodes", verb, "") for verb in ("list", "watch")),
            ("leases.coordination.k8s.io", "create", ""),
            ("events.events.k8s.io", "create", ""),
            *(("leases.coordination.k8s.io", verb, autoscaler) for verb in ("get", "update")),
            *(
                ("deployments/scale.apps", verb, f"{release}-pool-{pool}")
                for pool in pools
                for verb in ("get", "update")
            ),
            *(("deployments.apps", "patch", f"{release}-pool-{pool}") for pool in pools),
        },
        **{f"{release}-pool-{pool}": set() for pool in pools},
    }


def caller(plane: ControlPlane, namespace: str, account: str) -> Api:
    """The API as a ServiceAccount uses it."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    return plane.caller(str(plane.api.create(path, {"spec": {"expirationSeconds": 600}})["status"]["token"]))


def rights(api: Api, namespace: str) -> Rights:
    """Everything that the API server says this caller may do in a namespace: what `auth can-i --list` shows."""
    asked = {"spec": {"namespace": namespace}}
    answer = api.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", asked)["status"]
    assert not answer["incomplete"]
    return {
        (f"{resource}.{group}" if group else resource, verb, name)
        for rule in answer["resourceRules"]
        for group in rule.get("apiGroups") or [""]
        for resource in rule.get("resources", [])
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or [""]
    }


def _known(plane: ControlPlane, kind: str) -> bool:
    try:
        return plane.api.find(KINDS[kind].format("namespaces/default")) is not None
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
