"""Callers that come through a gateway: where they reach hosts, and how the gateway knows which host is meant.

A gateway adds `envmesh-gateway` to what it forwards to the broker: the address by which its caller called it. Leases
then bear that address, and the metadata `envmesh-host`, by which the gateway finds the host. Whoever says the word
without a gateway harms nobody: it is told the address that it said.
"""

from __future__ import annotations

import base64
import re

from envmesh.errors import Refusal
from envmesh.v1 import placement_pb2
from envmesh_service.credentials import Metadata

__all__ = ["gateway_of", "route"]

GATEWAY_KEY, HOST_KEY = "envmesh-gateway", "envmesh-host"
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}))(:[0-9]{1,5})?")
_TLS_PORT = ":443"


def gateway_of(metadata: Metadata) -> str:
    """The gateway through which a call came, as host:port; empty: it came straight.

    Raises:
        Refusal: INVALID_ARGUMENT ARGUMENT_INVALID: what the gateway says is no address.
    """
    said = next((value for key, value in metadata if key == GATEWAY_KEY), "")
    if isinstance(said, bytes):
        said = said.decode("ascii", "replace")
    if not said:
        return ""
    match = _AUTHORITY.fullmatch(said)
    if match is None:
        raise Refusal(
            f"{GATEWAY_KEY}: {said[:100]!r} is no address; a gateway says the :authority of its caller, host:port",
            reason="ARGUMENT_INVALID",
        )
    return match[1] + (match[2] or _TLS_PORT)


def route(address: str) -> placement_pb2.MetadataEntry:
    """By what a gateway finds the host at this address: base64, as Envoy's header-based stateful session reads it."""
    return placement_pb2.MetadataEntry(key=HOST_KEY, value=base64.b64encode(address.encode()).decode())
