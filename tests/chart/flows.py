"""NetworkPolicies as a network plugin reads them: may this pod reach that one, on this port?"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod with labels in a namespace, or an address outside the cluster."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Named container ports."""


def allowed(
    policies: Iterable[Object], source: Endpoint, target: Endpoint, port: int, protocol: str = "TCP"
) -> bool:
    """Whether egress of the source and ingress of the target both let it pass."""
    listed = list(policies)
    return _passes(listed, "Egress", source, target, target, port, protocol) and _passes(
        listed, "Ingress", target, source, target, port, protocol
    )


def _passes(
    policies: list[Object],
    direction: str,
    subject: Endpoint,
    peer: Endpoint,
    target: Endpoint,
    port: int,
    protocol: str,
) -> bool:
    concerned = [p for p in policies if direction in p["spec"]["policyTypes"] and _selects(p, subject)]
    if not concerned:
        return True  # nothing selects it: everything passes
    word, end = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return any(
        _port_fits(rule.get("ports"), target, port, protocol)
        and (end not in rule or any(_fits(each, peer, policy["metadata"]["namespace"]) for each in rule[end]))
        for policy in concerned
        for rule in policy["spec"].get(word) or []
    )


def _selects(policy: Object, endpoint: Endpoint) -> bool:
    same = policy["metadata"]["namespace"] == endpoint.namespace
    return same and _matches(policy["spec"]["podSelector"], endpoint.labels)


def _fits(peer: Object, endpoint: Endpoint, namespace: str) -> bool:
    if "ipBlock" in peer:
        if not endpoint.address:
            return False
        address, block = ipaddress.ip_address(endpoint.address), ipaddress.ip_network(peer["ipBlock"]["cidr"])
        except_ = [ipaddress.ip_network(each) for each in peer["ipBlock"].get("except", [])]
        return address in block and not any(address in each for each in except_)
    if not endpoint.namespace:
        return False
    if "namespaceSelector" in peer:
        if not _matches(peer["namespaceSelector"], endpoint.namespace_labels):
            return False
    elif endpoint.namespace != namespace:
        return False
    return _matches(peer.get("podSelector", {}), endpoint.labels)


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for each in selector.get("matchExpressions", []):
        there = labels.get(each["key"])
        verdict = {
            "In": there in each.get("values", []),
            "NotIn": there not in each.get("values", []),
            "Exists": there is not None,
            "DoesNotExist": there is None,
        }[each["operator"]]
        if not verdict:
            return False
    return True


def _port_fits(ports: list[Object] | None, target: Endpoint, port: int, protocol: str) -> bool:
    if not ports:
        return True
    return any(
        each.get("protocol", "TCP") == protocol
        and ("port" not in each or target.ports.get(each["port"], each["port"]) == port)
        for each in ports
    )
