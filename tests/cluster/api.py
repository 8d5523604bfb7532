"""The Kubernetes API as plain HTTP calls, for tests and for the node stand-in. JSON in, JSON out."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class ApiError(Exception):
    """The API server refused. ``status`` is its HTTP status."""

    def __init__(self, status: int, method: str, path: str, body: str) -> None:
        self.status = status
        super().__init__(f"{method} {path}: {status}: {body}")


Connect = Callable[[str, int, float], socket.socket]


def _dial(address: str, port: int, seconds: float) -> socket.socket:
    return socket.create_connection((address, port), timeout=seconds)


class _Connection(http.client.HTTPSConnection):
    """HTTPS over a socket that ``dial`` made."""

    def __init__(self, address: str, port: int, dial: Connect, tls: ssl.SSLContext, seconds: float) -> None:
        super().__init__(address, port, timeout=seconds, context=tls)
        self._dial, self._tls, self._seconds = dial, tls, seconds

    def connect(self) -> None:
        raw = self._dial(self.host, self.port, self._seconds)
        raw.settimeout(self._seconds)
        self.sock = self._tls.wrap_socket(raw, server_hostname=self.host)


class Api:
    """One caller of the API server, known by its token. Thread-safe: a connection a call."""

    def __init__(self, address: str, port: int, authority: Path, token: str, dial: Connect = _dial) -> None:
        self.address, self.port, self.authority, self.token = address, port, authority, token
        self._dial = dial
        self._tls = ssl.create_default_context(cafile=str(authority))

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content: str = "application/json",
        seconds: float = 15.0,
    ) -> Object:
        """One call.

        Raises:
            ApiError: it was refused. OSError: the API server cannot be reached.
        """
        connection = self._connection(seconds)
        try:
            response = self._send(connection, method, path, body, content)
            text = response.read().decode()
        finally:
            connection.close()
        if response.status >= 300:
            raise ApiError(response.status, method, path, text)
        if "json" in (response.headers.get("Content-Type") or ""):
            loaded: Object = json.loads(text)
            return loaded
        return {"text": text}

    def get(self, path: str, **query: str) -> Object:
        """Read an object or a list."""
        return self.call("GET", _with(path, query))

    def items(self, path: str, **query: str) -> list[Object]:
        """Read a list's items."""
        return list(self.get(path, **query)["items"])

    def find(self, path: str) -> Object | None:
        """Read an object; None when there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def create(self, path: str, body: Object) -> Object:
        """Create an object in a collection."""
        return self.call("POST", path, body)

    def patch(self, path: str, body: Object, *, content: str = MERGE) -> Object:
        """Change an object."""
        return self.call("PATCH", path, body, content=content)

    def delete(self, path: str, **options: Any) -> Object:
        """Delete an object."""
        return self.call("DELETE", path, options)

    def watch(self, path: str, *, seconds: int = 300, **query: str) -> Iterator[tuple[str, Object]]:
        """The events of a watch, as (type, object), until it ends or ``seconds`` have passed."""
        connection = self._connection(seconds + 10.0)
        asked = {**query, "watch": "1", "timeoutSeconds": str(seconds)}
        try:
            response = self._send(connection, "GET", _with(path, asked), None, "application/json")
            if response.status >= 300:
                raise ApiError(response.status, "WATCH", path, response.read().decode())
            while line := response.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(int(event["object"].get("code", 410)), "WATCH", path, line.decode())
                yield event["type"], event["object"]
        finally:
            connection.close()

    def _connection(self, seconds: float) -> http.client.HTTPSConnection:
        return _Connection(self.address, self.port, self._dial, self._tls, seconds)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        content: str,
    ) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body)
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Accept": "application/json",
            "Content-Type": content,
        }
        connection.request(method, path, body=data, headers=headers)
        return connection.getresponse()


def _with(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path
