"""What a call through a gateway means for leases."""

from __future__ import annotations

import pytest

from envmesh.errors import Refusal
from envmesh_broker.gateways import gateway_of, route


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("mesh.example.org:443", "mesh.example.org:443"),
        ("mesh.example.org", "mesh.example.org:443"),
        ("10.0.0.1:8443", "10.0.0.1:8443"),
        ("[fd00::1]:443", "[fd00::1]:443"),
        ("localhost:9", "localhost:9"),
        ("", ""),
    ],
)
def test_the_gateway_is_what_its_caller_called_it(said: str, address: str) -> None:
    assert gateway_of((("other", "x"), ("envmesh-gateway", said))) == address


def test_a_call_without_the_word_came_straight() -> None:
    assert gateway_of(()) == ""


@pytest.mark.parametrize(
    "said", ["two words:443", "a:b:c", "mesh:443/path", "http://mesh", "x" * 300, "mesh:"]
)
def test_what_is_no_address_is_refused(said: str) -> None:
    with pytest.raises(Refusal, match="is no address") as refused:
        gateway_of((("envmesh-gateway", said),))
    assert refused.value.reason == "ARGUMENT_INVALID"


def test_a_route_is_what_envoy_reads() -> None:
    entry = route("1.2.3.4:80")
    assert (entry.key, entry.value) == ("envmesh-host", "MS4yLjMuNDo4MA==")
