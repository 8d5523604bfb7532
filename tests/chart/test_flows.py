"""Who may reach whom: a table, evaluated over the rendered NetworkPolicies.

Nothing enforces NetworkPolicies in the test cluster; what is shown here is what they say, as their API defines it.
"""

from __future__ import annotations

from functools import cache

import pytest

from tests.chart.flows import Endpoint, allowed
from tests.chart.matrix import MATRIX, pool
from tests.chart.rendering import Object, of_kind, pod_specs, render

pytestmark = pytest.mark.chart

PORTS = {"grpc": 7070, "fleet": 7071, "health": 8080, "metrics": 9090}
OURS = {"app.kubernetes.io/name": "envmesh", "app.kubernetes.io/instance": "m"}
LABELS = {"kubernetes.io/metadata.name": "rl"}


def ours(component: str, **labels: str) -> Endpoint:
    more = {"app.kubernetes.io/component": component, **labels}
    ports = {**PORTS, "grpc": {"autoscaler": 6000, "gateway": 8443}.get(component, 7070)}
    return Endpoint(component, {**OURS, **more}, "rl", LABELS, "10.1.0.1", ports)


def stranger(namespace: str) -> Endpoint:
    return Endpoint(
        namespace, {"app": "x"}, namespace, {"kubernetes.io/metadata.name": namespace}, "10.1.0.9"
    )


HOST = ours("host", **{"envmesh.dev/pool": "walk"})
OTHER_HOST = ours("host", **{"envmesh.dev/pool": "cartpole"})
BROKER, AUTOSCALER, HOOK = ours("broker"), ours("autoscaler"), ours("hook")
GATEWAY = ours("gateway")
TRAINER, KEDA, DNS = stranger("training"), stranger("keda"), stranger("kube-system")
PROMETHEUS = stranger("monitoring")
OTHER_RELEASE = Endpoint(
    "other",
    {**OURS, "app.kubernetes.io/instance": "n", "app.kubernetes.io/component": "host"},
    "rl",
    LABELS,
    "10.1.0.7",
    PORTS,
)
METADATA, METADATA6 = (
    Endpoint("metadata", address="169.254.169.254"),
    Endpoint("metadata", address="fd00:ec2::254"),
)
INTERNET, API_SERVER = Endpoint("internet", address="93.184.216.34"), Endpoint("api", address="10.96.0.1")
NODE = Endpoint("node", address="10.0.0.5")

ALWAYS: list[tuple[Endpoint, Endpoint, int, str, bool]] = [
    (TRAINER, BROKER, 7070, "TCP", True),
    (TRAINER, HOST, 7070, "TCP", True),
    (TRAINER, BROKER, 7071, "TCP", False),
    (TRAINER, BROKER, 8080, "TCP", False),
    (TRAINER, HOST, 8080, "TCP", False),
    (TRAINER, AUTOSCALER, 6000, "TCP", False),
    (PROMETHEUS, HOST, 9090, "TCP", True),
    (HOST, BROKER, 7071, "TCP", True),
    (HOST, BROKER, 7070, "TCP", False),
    (HOST, DNS, 53, "UDP", True),
    (HOST, DNS, 53, "TCP", True),
    (HOST, DNS, 443, "TCP", False),
    (HOST, HOST, 7070, "TCP", False),
    (HOST, OTHER_HOST, 7070, "TCP", False),
    (HOST, AUTOSCALER, 6000, "TCP", False),
    (HOST, TRAINER, 80, "TCP", False),
    (HOST, API_SERVER, 443, "TCP", False),
    (HOST, NODE, 10250, "TCP", False),
    (HOST, METADATA, 80, "TCP", False),
    (HOST, METADATA6, 80, "TCP", False),
    (BROKER, METADATA, 80, "TCP", False),
    (BROKER, HOST, 7070, "TCP", False),
    (BROKER, INTERNET, 443, "TCP", False),
    (AUTOSCALER, BROKER, 7071, "TCP", True),
    (AUTOSCALER, API_SERVER, 443, "TCP", True),
    (AUTOSCALER, METADATA, 80, "TCP", False),
    (HOOK, BROKER, 7071, "TCP", True),
    (HOOK, BROKER, 7070, "TCP", True),
    (HOOK, API_SERVER, 443, "TCP", True),
    (TRAINER, HOOK, 80, "TCP", False),
    (OTHER_RELEASE, BROKER, 7071, "TCP", False),
]


@cache
def policies(name: str) -> list[Object]:
    return list(of_kind(render(MATRIX[name]), "NetworkPolicy").values())


@pytest.mark.parametrize("flow", ALWAYS, ids=lambda f: f"{f[0].name} to {f[1].name} {f[2]}/{f[3]}")
def test_by_default(flow: tuple[Endpoint, Endpoint, int, str, bool]) -> None:
    source, target, port, protocol, may = flow
    assert allowed(policies("two pools"), source, target, port, protocol) is may


def test_egress_opens_what_it_names_and_never_the_metadata_address() -> None:
    open_ = policies("egress")
    assert allowed(open_, HOST, INTERNET, 443)
    assert not allowed(open_, HOST, INTERNET, 80)
    assert not allowed(open_, HOST, METADATA, 443)
    assert not allowed(open_, HOST, METADATA, 80)
    assert not allowed(open_, HOST, METADATA6, 80)
    assert not allowed(open_, OTHER_HOST, INTERNET, 443), "it is this pool's alone"
    models = Endpoint("models", {}, "models", {"name": "models"}, "10.1.3.3", {"http": 8000})
    assert allowed(open_, HOST, models, 8000)


def test_brokers_reach_a_collector_of_traces_where_they_are_told_one() -> None:
    collector = Endpoint("collector", {}, "observability", {"name": "observability"}, "10.1.4.4")
    assert allowed(policies("traces"), BROKER, collector, 4317)
    assert not allowed(policies("traces"), BROKER, collector, 4318)
    assert not allowed(policies("two pools"), BROKER, collector, 4317)


@pytest.mark.parametrize(
    "cidr",
    ["160.0.0.0/4", "169.0.0.0/8", "169.254.0.0/16", "128.0.0.0/1", "0.0.0.0/0", "100.64.0.0/10",
     "::/0", "fc00::/7", "fd00::/8", "FD00:0::/16", "fd00:ec2::/32", "fd20::/16", "fe80::/10"],
)  # fmt: skip
def test_every_block_around_a_metadata_address_leaves_it_out(cidr: str) -> None:
    open_ = list(of_kind(render(pool(egress=[{"cidr": cidr}])), "NetworkPolicy").values())
    for address in ("169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254", "fe80::a9fe:a9fe"):
        assert not allowed(open_, HOST, Endpoint("metadata", address=address), 80)


@pytest.mark.parametrize("address", ["10.20.0.7", "169.254.20.10", "2001:db8::7", "fd12:3456:789a::1"])
def test_other_addresses_are_reached_where_their_block_is_named(address: str) -> None:
    cidr = "::/0" if ":" in address else "0.0.0.0/0"
    open_ = list(of_kind(render(pool(egress=[{"cidr": cidr}])), "NetworkPolicy").values())
    assert allowed(open_, HOST, Endpoint("named", address=address), 443)


def test_a_gateway_hears_those_it_is_for_and_reaches_broker_and_hosts() -> None:
    mine = policies("gateway")
    near, far = Endpoint("near", address="203.0.113.7"), Endpoint("far", address="198.51.100.7")
    assert allowed(mine, near, GATEWAY, 8443)
    assert not allowed(mine, far, GATEWAY, 8443)
    assert not allowed(mine, near, GATEWAY, 9901), "what Envoy's administrator may"
    assert not allowed(mine, near, BROKER, 7070)
    assert allowed(mine, GATEWAY, BROKER, 7070)
    assert not allowed(mine, GATEWAY, BROKER, 7071), "the fleet's port"
    assert allowed(mine, GATEWAY, OTHER_HOST, 7070)
    assert not allowed(mine, GATEWAY, INTERNET, 443)
    assert not allowed(mine, GATEWAY, METADATA, 80)
    assert allowed(policies("gateway with a public certificate"), far, GATEWAY, 8443)


def test_a_closed_network_hears_only_whom_it_names() -> None:
    closed = policies("closed network")
    training = Endpoint("training", {}, "training", {"name": "training"}, "10.1.2.2")
    assert allowed(closed, training, BROKER, 7070)
    assert not allowed(closed, TRAINER, BROKER, 7070)
    assert not allowed(closed, PROMETHEUS, BROKER, 9090)
    assert allowed(closed, AUTOSCALER, Endpoint("api", address="10.0.0.1"), 6443)
    assert not allowed(closed, AUTOSCALER, API_SERVER, 6443)


def test_keda_is_heard_where_it_scales_and_only_there() -> None:
    assert allowed(policies("keda"), KEDA, AUTOSCALER, 6000)
    assert allowed(policies("keda"), AUTOSCALER, AUTOSCALER, 6000)
    assert not allowed(policies("two pools"), KEDA, AUTOSCALER, 6000)


@pytest.mark.parametrize("name", [name for name in MATRIX if name != "no network policies"])
def test_every_pod_is_under_the_default_deny(name: str) -> None:
    objects = render(MATRIX[name])
    deny = next(p for n, p in of_kind(objects, "NetworkPolicy").items() if n.endswith("-default-deny"))
    assert not deny["spec"].get("ingress")
    assert not deny["spec"].get("egress")
    chosen = deny["spec"]["podSelector"]["matchLabels"].items()
    for each in objects:
        if each["kind"] in ("Deployment", "Job"):
            assert chosen <= each["spec"]["template"]["metadata"]["labels"].items(), each["metadata"]["name"]
    assert list(pod_specs(objects))
