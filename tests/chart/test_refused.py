"""Values that cannot be are refused when they are rendered, with what is wrong, where, and what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.matrix import WALK, WALK_NEXT, pool
from tests.chart.rendering import Refused, render

pytestmark = pytest.mark.chart

_HPA = {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "mine"}}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"brokr": {}}, "additional properties 'brokr' not allowed"),
    ({"broker": {"extraArgs": ["--help"]}}, "additional properties 'extraArgs' not allowed"),
    ({"autoscaler": {"extraArgs": ["--help"]}}, "additional properties 'extraArgs' not allowed"),
    (pool(sloots=1), "additional properties 'sloots' not allowed"),
    (pool(settings={"leaseIdel": 1}), "additional properties 'leaseIdel' not allowed"),
    (pool(settings={"listen": "x"}), "additional properties 'listen' not allowed"),
    (pool(slots=0), "minimum"),
    (pool(scaling={"mode": "both"}), "value must be one of"),
    (pool(environments=[]), "pools.walk.environments: it serves nothing"),
    (pool(environments=[{"name": "walk"}]), "missing properties"),
    (pool(environments=[WALK, WALK]), "walk is there twice"),
    (
        {"pools": {"a": {"environments": [WALK]}, "b": {"environments": [WALK_NEXT]}}},
        "of two versions one pool must be `retiring: true`",
    ),
    (
        {"pools": {"a": {"environments": [WALK]}, "b": {"environments": [WALK]}}},
        "walk@1 is in pools.a too; the autoscaler cannot tell whose demand it is",
    ),
    (pool(scaling={"min": 5, "max": 2}), "min 5 is over max 2"),
    ({"autoscaler": {"enabled": False}}, "direct needs autoscaler.enabled: true"),
    (pool(scaling={"mode": "direct", "hpa": {"metrics": []}}), "replicas have one owner"),
    (pool(scaling={"mode": "hpa", "keda": {"pollingInterval": 1}}), "replicas have one owner"),
    (
        {"extraObjects": [{**_HPA, "spec": {"scaleTargetRef": {"name": "m-envmesh-pool-cartpole"}}}]},
        "HorizontalPodAutoscaler mine scales m-envmesh-pool-cartpole, whose replicas have an owner already",
    ),
    (pool(scaling={"mode": "hpa"}, retiring=True), "an HPA does not empty a retiring pool"),
    ({"pools": {"Walk": {"environments": [WALK]}}}, "additional properties 'Walk' not allowed"),
    (
        {"tls": {"mode": "existing"}},
        "tls.existingSecrets.broker: tls.mode is existing and no Secret is named",
    ),
    ({"tls": {"existingSecrets": {"host": "h"}}}, "a Secret is named and tls.mode is generated"),
    ({"tls": {"mode": "certManager"}}, "cert-manager needs an issuer's name"),
    ({"keys": {"generate": False}}, "keys.generate: false leaves nobody to make the certificates"),
    (
        {"credentials": {"existingSecret": "s", "tenants": [{"name": "a"}]}},
        "existingSecret and tenants are both set",
    ),
    (
        {"credentials": {"mode": "none", "existingSecret": "s"}},
        "credentials.mode: none, and credentials are given",
    ),
    (
        {"credentials": {"serviceAccounts": {"enabled": True}}},
        "nothing says which tenant a ServiceAccount belongs to",
    ),
    ({"credentials": {"tenants": [{"name": "a", "tokens": ["secret"]}]}}, "does not match pattern"),
    (
        {
            "rbac": {"scope": "namespace"},
            "credentials": {
                "serviceAccounts": {"enabled": True},
                "tenants": [{"name": "a", "serviceAccounts": ["x/y"]}],
            },
        },
        "TokenReview needs rbac.scope cluster",
    ),
    ({"rbac": {"scope": "namespace"}, "priorityClass": {"create": True}}, "rbac.scope cluster is needed"),
    ({"tls": {"mode": "off"}, "metrics": {"tls": True}}, "there is no certificate with tls.mode off"),
    (
        {"tls": {"mode": "off"}, "gateway": {"enabled": True}},
        "gateway.certificateSecret: with tls.mode off nobody makes the gateway a certificate",
    ),
    (
        {"gateway": {"enabled": True}, "tls": {"mode": "existing"}},
        "tls.existingSecrets.gateway: tls.mode is existing and no Secret is named",
    ),
    (pool(egress=[{"cidr": "169.254.169.254/32"}]), "metadata address, which no host may reach"),
    (pool(egress=[{"cidr": "169.254.169.0/24"}]), "169.254.169.0/24 holds 169.254.169.254"),
    (pool(egress=[{"cidr": "fd00:ec2::254/128"}]), "metadata address, which no host may reach"),
    (pool(egress=[{"cidr": "FD00:0EC2:0:0::/64"}]), "metadata address, which no host may reach"),
    (pool(egress=[{"cidr": "::ffff:169.254.169.254/128"}]), "write it as IPv4"),
    (
        {"autoscaler": {"maxHosts": 4}, **pool(scaling={"min": 5})},
        "autoscaler.maxHosts: 4 hosts over all pools, and their scaling.min are 5 together",
    ),
    (pool(rollout={"maxSurge": 0}), "minimum"),
    (pool(scaling={"max": 0}), "minimum"),
    ({"credentials": {"serviceAccounts": {"cacheSeconds": 301}}}, "maximum"),
    (pool(egress=[{"ports": [{"port": 443}]}]), "anyOf"),
    (pool(image={"digest": "latest"}), "does not match pattern"),
]


@pytest.mark.parametrize(("values", "why"), REFUSED, ids=[why[:50] for _, why in REFUSED])
def test_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused) as refused:
        render(values)
    assert why in str(refused.value)


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(Refused) as refused:
        render({"autoscaler": {"enabled": False}, "tls": {"mode": "certManager"}, **pool(environments=[])})
    assert str(refused.value).count("\n  ") >= 3
