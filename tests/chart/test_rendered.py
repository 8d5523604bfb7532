"""What must be true of everything that the chart renders."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from envmesh_broker.settings import parse_pools
from tests.chart.matrix import MATRIX, pool
from tests.chart.rendering import Object, of_kind, pod_specs, render, templates

pytestmark = pytest.mark.chart


@cache
def rendered(name: str) -> list[Object]:
    return render(MATRIX[name])


every = pytest.mark.parametrize("name", list(MATRIX))


@every
def test_pods_are_restricted(name: str) -> None:
    for where, spec in pod_specs(rendered(name)):
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert spec["automountServiceAccountToken"] is False, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), where
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, where
            assert context["readOnlyRootFilesystem"] is True, where
            assert context["capabilities"] == {"drop": ["ALL"]}, where
            assert container["resources"]["requests"], where
            assert container["resources"]["limits"]["memory"], where


@every
def test_nobody_but_the_owner_sets_replicas_of_a_pool(name: str) -> None:
    objects = rendered(name)
    pools = {n for n, each in of_kind(objects, "Deployment").items() if is_pool(each)}
    for each in of_kind(objects, "Deployment").values():
        assert ("replicas" in each["spec"]) is not is_pool(each)
    owners = [
        each["spec"]["scaleTargetRef"]["name"]
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
        for each in of_kind(objects, kind).values()
    ]
    assert len(owners) == len(set(owners))
    assert set(owners) <= pools
    for each in of_kind(objects, "ConfigMap").values():
        if "autoscaler" in each["metadata"]["name"] and "pools.json" in each["data"]:  # not its dashboard
            told = {
                p["deployment"]
                for p in json.loads(each["data"]["pools.json"])["pools"]
                if p["mode"] == "direct"
            }
            assert not told & set(owners)


@every
def test_no_token_and_no_role_reach_a_host(name: str) -> None:
    objects = rendered(name)
    accounts = set()
    for each in of_kind(objects, "Deployment").values():
        if is_pool(each):
            spec = each["spec"]["template"]["spec"]
            accounts.add(spec["serviceAccountName"])
            assert not [v for v in spec["volumes"] if "projected" in v]
            assert not [v for v in spec["volumes"] if "lease" in json.dumps(v)], (
                "hosts never hold what signs leases"
            )
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        for each in of_kind(objects, kind).values():
            assert not accounts & {subject["name"] for subject in each["subjects"]}


@every
def test_labels_and_namespaces_are_everywhere(name: str) -> None:
    for each in rendered(name):
        if each["metadata"]["name"] in ("m-more", "text"):
            continue
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "m"
        assert len(each["metadata"]["name"]) <= 63
        if not each["kind"].startswith(("Cluster", "PriorityClass")):
            assert each["metadata"]["namespace"] == "rl", each["metadata"]["name"]
        if each["kind"] == "Deployment":
            chosen = each["spec"]["selector"]["matchLabels"].items()
            assert chosen <= each["spec"]["template"]["metadata"]["labels"].items()


@every
def test_no_verb_is_a_star(name: str) -> None:
    for kind in ("Role", "ClusterRole"):
        for each in of_kind(rendered(name), kind).values():
            for rule in each["rules"]:
                assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]


@pytest.mark.parametrize(
    ("rules", "annotation", "page"),
    [
        ({}, "runbook", "docs/runbooks.md"),
        ({"runbooks": "https://wiki.example.com/r"}, "runbook_url", "https://wiki.example.com/r"),
    ],
)
def test_each_alert_opens_its_section_of_the_runbooks(rules: Object, annotation: str, page: str) -> None:
    objects = render({"metrics": {"rules": {"enabled": True, **rules}}})
    groups = [
        group for each in of_kind(objects, "PrometheusRule").values() for group in each["spec"]["groups"]
    ]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert len(alerts) > 30
    for alert in alerts:
        links = {key: value for key, value in alert["annotations"].items() if key.startswith("runbook")}
        assert links == {annotation: f"{page}#{alert['alert'].lower()}"}


@pytest.mark.parametrize(("name", "seconds"), [("defaults", 50), ("long drain", 675)])
def test_the_grace_period_is_checkpoint_and_deadline_and_fifteen_seconds(name: str, seconds: int) -> None:
    deployments = [each for each in of_kind(rendered(name), "Deployment").values() if is_pool(each)]
    assert seconds in {
        each["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] for each in deployments
    }


@pytest.mark.parametrize(
    "change",
    [
        {"scaling": {"max": 50, "bufferMin": 9, "lookBack": 1, "paused": True, "dryRun": True}},
        {"podDisruptionBudget": {"enabled": False}},
        {"podDisruptionBudget": {"maxUnavailable": 2}},
        {"retiring": True},
        {"rollout": {"maxSurge": 3, "drainBudget": 9, "progressDeadlineSeconds": 60}},
        {"egress": [{"cidr": "10.0.0.0/8"}]},
        {"service": {"labels": {"a": "b"}}, "labels": {"a": "b"}, "annotations": {"a": "b"}},
        {"scaling": {"mode": "keda"}},
        {"scaling": {"mode": "hpa"}},
        {"scaling": {"mode": "manual"}},
    ],
    ids=str,
)
def test_what_needs_no_restart_rolls_no_host(change: dict[str, Any]) -> None:
    assert _hosts(pool()) == _hosts(pool(**change))


def test_what_is_the_mesh_s_alone_rolls_no_host() -> None:
    others = {
        "credentials": {"firstTenant": "others"},
        "autoscaler": {"maxHosts": 99, "settings": {"logLevel": "debug"}},
        "broker": {"settings": {"liveness": 9}},
        "networkPolicy": {"enabled": False},
    }
    assert _hosts(pool()) == _hosts({**others, **pool()})
    assert _hosts(pool()) != _hosts(pool(settings={"leaseIdle": 3})), "what hosts read at their start does"


def _hosts(values: dict[str, Any]) -> list[Object]:
    deployments = of_kind(render(values), "Deployment").values()
    return [each["spec"]["template"] for each in deployments if is_pool(each)]


def test_a_roll_takes_no_host_away_before_another_is_ready_and_there_is_one_broker() -> None:
    for each in of_kind(rendered("defaults"), "Deployment").values():
        if is_pool(each):
            assert each["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        if each["metadata"]["name"] == "m-envmesh-broker":
            assert (each["spec"]["replicas"], each["spec"]["strategy"]) == (1, {"type": "Recreate"})


@pytest.mark.parametrize("name", ["two pools", "gateway"])
def test_names_of_hosts_are_found_before_they_are_ready_and_while_they_end(name: str) -> None:
    services = of_kind(rendered(name), "Service").values()
    headless = [each for each in services if each["spec"].get("clusterIP") == "None"]
    assert len(headless) >= 2
    assert all(each["spec"]["publishNotReadyAddresses"] for each in headless)


def test_a_retiring_pool_has_no_floor_in_any_mode() -> None:
    scaling = {"mode": "keda", "min": 3}
    (kept,) = of_kind(render(pool(scaling=scaling)), "ScaledObject").values()
    (leaves,) = of_kind(render(pool(scaling=scaling, retiring=True)), "ScaledObject").values()
    assert (kept["spec"]["minReplicaCount"], leaves["spec"]["minReplicaCount"]) == (3, 0)


def test_settings_become_variables_digit_by_digit() -> None:
    settings = {"queueRequests": 1000000, "liveness": 7.5, "logLevel": "debug"}
    broker = of_kind(render({"broker": {"settings": settings}}), "Deployment")["m-envmesh-broker"]
    env = {e["name"]: e.get("value") for e in broker["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["ENVMESH_BROKER_QUEUE_REQUESTS"] == "1000000"
    assert env["ENVMESH_BROKER_LIVENESS"] == "7.5"
    assert env["ENVMESH_BROKER_LOG_LEVEL"] == "debug"


def test_namespace_scope_asks_for_no_right_over_the_cluster() -> None:
    assert not [
        e
        for e in rendered("namespace scope")
        if e["kind"].startswith("Cluster") or e["kind"] == "PriorityClass"
    ]


def test_broker_and_autoscaler_are_told_which_pool_retires() -> None:
    objects = of_kind(rendered("retiring"), "ConfigMap")
    broker = parse_pools(objects["m-envmesh-broker"]["data"]["pools.json"])
    assert {p.name: p.retiring for p in broker} == {"cartpole": False, "walk": True, "walk2": False}
    told = {p["name"]: p for p in json.loads(objects["m-envmesh-autoscaler"]["data"]["pools.json"])["pools"]}
    assert told["walk"]["retiring"] is True
    assert told["walk"]["min_hosts"] == 0


def test_a_change_of_pools_restarts_neither_broker_nor_autoscaler() -> None:
    before, after = rendered("defaults"), rendered("retiring")
    for name in ("m-envmesh-broker", "m-envmesh-autoscaler"):
        was, now = (of_kind(objects, "Deployment")[name]["spec"]["template"] for objects in (before, after))
        assert was == now


def test_what_keda_calls_is_a_name_on_the_autoscalers_certificate() -> None:
    objects = rendered("keda")
    (scaled,) = of_kind(objects, "ScaledObject").values()
    host = scaled["spec"]["triggers"][0]["metadata"]["scalerAddress"].rpartition(":")[0]
    job = of_kind(objects, "Job")["m-envmesh-keys"]
    assert f"--autoscaler-name={host}" in job["spec"]["template"]["spec"]["containers"][0]["args"]


def test_one_template_per_component_and_kind() -> None:
    known = {"checks.yaml", "extra-objects.yaml"}
    for path in templates():
        if path.name not in known:
            kinds = {line for line in path.read_text().splitlines() if line.startswith("kind: ")}
            jobs = "envmesh.hookJob" in path.read_text()
            assert len(kinds) + jobs == 1, f"{path.name}: {kinds}"


def is_pool(deployment: Object) -> bool:
    labels: dict[str, str] = deployment["metadata"]["labels"]
    return labels.get("app.kubernetes.io/component") == "host"
