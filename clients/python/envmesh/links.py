"""A client's channels: one to each address, made with the credentials of now, and what hosts are shown."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import grpc

from envmesh.access import Access, proxy_between
from envmesh.v1 import placement_pb2

__all__ = ["Links", "link_trouble"]

PASS_KEY = "envmesh-pass"
"""The metadata by which hosts know whose call it is; it comes with leases and lists of pools."""

MOST_RETIRED = 256
"""Channels of older certificates that are kept for what is still open on them."""


class Links:
    """The channels of a client, and what it has learned of those at their other end."""

    def __init__(self, access: Access, options: tuple[tuple[str, Any], ...]) -> None:
        self._access, self._options = access, options
        self._pass: dict[str, str] = {}
        self._server_names: dict[str, str] = {}
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}
        self._retired: list[grpc.aio.Channel] = []
        self._generation = 0

    def channel(self, address: str, purpose: str = "") -> grpc.aio.Channel:
        """The channel to an address, one for each purpose. Once certificates were renewed it is a new one, and what is
        open on the old one goes on."""
        if self._generation != self._access.generation:
            self._generation = self._access.generation
            self._retired = [*self._retired, *self._channels.values()][-MOST_RETIRED:]
            self._channels.clear()
        channel = self._channels.get((address, purpose))
        if channel is None:
            channel = self._access.channel(address, self._options, self.server_name(address))
            self._channels[address, purpose] = channel
        return channel

    def drop(self, address: str, purpose: str = "") -> grpc.aio.Channel | None:
        """Give up the channel to an address; whoever is next gets a new one. Returns the old one, to be closed."""
        return self._channels.pop((address, purpose), None)

    def learn(
        self, address: str, server_name: str, metadata: Iterable[placement_pb2.MetadataEntry] = ()
    ) -> None:
        """Keep what was said of a host: the name on its certificate, and the newest pass, which is for every host."""
        if server_name:
            self._server_names[address] = server_name
        self._pass.update((entry.key, entry.value) for entry in metadata if entry.key == PASS_KEY)

    def server_name(self, address: str) -> str:
        """The name on the certificate of a host; empty: that of its address."""
        return self._server_names.get(address, "")

    def passes(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call to a host: the newest pass."""
        return tuple(self._pass.items())

    @staticmethod
    def without_pass(metadata: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """The rest of what came with a lease, which is for gateways."""
        return tuple(entry for entry in metadata if entry[0] != PASS_KEY)

    @staticmethod
    def way(metadata: Iterable[tuple[str, str]]) -> str:
        """The purpose of a host's channel. Behind a gateway many hosts have one address: each has a channel of its own
        there, so that the loss of one closes no other's, and none waits for another's bytes."""
        return "&".join(f"{key}={value}" for key, value in Links.without_pass(metadata))

    async def close(self) -> None:
        """Close every channel."""
        for channel in (*self._channels.values(), *self._retired):
            await channel.close()


def link_trouble(message: str, target: str, *, secure: bool) -> str:
    """What gRPC's words for a failed connection mean for whoever chose the target and the credentials."""
    if "errors resolving" in message:
        return "there is no such name here"
    if "certificate verify failed" in message or "CERTIFICATE_VERIFY_FAILED" in message:
        return (
            "its certificate does not lead to a root that is trusted here, or is not valid now: "
            "give the mesh's own authority (ca=, $ENVMESH_CA)"
        )
    if "Hostname Verification Check failed" in message:
        return "its certificate is for another name: connect by a name that the certificate has"
    if "WRONG_VERSION_NUMBER" in message or ("SSL" in message and secure):
        return "what answers there speaks no TLS, or no gRPC"
    if "Socket closed" in message or "reset by peer" in message:
        return (
            "it closes the connection during the handshake: does it want a certificate of the client's own?"
            if secure
            else "it closes the connection: does it want TLS (ca=FILE or tls=True)?"
        )
    if proxy := proxy_between(target, os.environ):
        return f"it was tried through a proxy, {proxy}; $no_proxy says what is reached without"
    return "is the mesh up? (`envmesh up` or `envmesh serve` starts one)"
