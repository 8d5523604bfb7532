"""Probes, as a kubelet makes them."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cluster.api import Object
from tests.cluster.container import Container


@dataclass(slots=True)
class Probe:
    """One probe of one run of a container. ``passing`` is its verdict."""

    what: Object
    ports: dict[str, int]
    passing: bool
    begun: float = field(default_factory=time.monotonic)
    next: float = 0.0
    row: int = 0
    """Equal results in a row: positive successes, negative failures."""

    def __post_init__(self) -> None:
        self.next = self.begun + self.what.get("initialDelaySeconds", 0)

    def due(self, now: float) -> bool:
        """Whether it is time to ask."""
        return now >= self.next

    def ask(self, address: str, container: Container) -> bool:
        """Ask once. Returns whether the verdict changed."""
        good = self._ask(address, container, float(self.what.get("timeoutSeconds", 1)))
        self.next = time.monotonic() + self.what.get("periodSeconds", 10)
        self.row = max(1, self.row + 1) if good else min(-1, self.row - 1)
        before = self.passing
        if self.row >= self.what.get("successThreshold", 1):
            self.passing = True
        elif -self.row >= self.what.get("failureThreshold", 3):
            self.passing = False
        return before != self.passing

    @property
    def failed(self) -> bool:
        """Whether it failed as often as is allowed."""
        return -self.row >= self.what.get("failureThreshold", 3)

    def _ask(self, address: str, container: Container, seconds: float) -> bool:
        try:
            if "exec" in self.what:
                return container.execute(self.what["exec"]["command"], seconds) == 0
            if "httpGet" in self.what:
                return self._http(address, seconds)
            if "grpc" in self.what:
                return self._grpc(address, seconds)
            socket.create_connection(
                (address, self._port(self.what["tcpSocket"]["port"])), timeout=seconds
            ).close()
            return True
        except (OSError, http.client.HTTPException, grpc.RpcError):
            return False

    def _http(self, address: str, seconds: float) -> bool:
        get = self.what["httpGet"]
        port = self._port(get["port"])
        connection = http.client.HTTPConnection(address, port, timeout=seconds)
        if get.get("scheme") == "HTTPS":
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection(address, port, timeout=seconds, context=context)
        try:
            connection.request("GET", get.get("path", "/"))
            return 200 <= connection.getresponse().status < 400
        finally:
            connection.close()

    def _grpc(self, address: str, seconds: float) -> bool:
        asked = health_pb2.HealthCheckRequest(service=self.what["grpc"].get("service", ""))
        with grpc.insecure_channel(f"{address}:{self._port(self.what['grpc']['port'])}") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=seconds)  # type: ignore[attr-defined]
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _port(self, port: int | str) -> int:
        return port if isinstance(port, int) else self.ports[port]
