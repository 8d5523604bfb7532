"""How a client proves who it is, and how it knows whom it speaks to: tokens and TLS, from files that may be renewed.

A token goes to whoever places (the broker, or a host alone) and to nobody else; hosts are shown the pass that came from
there.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

__all__ = ["Access", "channel_options", "is_loopback", "open_channel", "proxy_between"]

LOOK_SECONDS = 1.0
"""How often a file is looked at, at most."""

TLS_PORT = "443"

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Where gRPC finds its proxy: the first that is set."""

_Value = TypeVar("_Value")


class _FromFiles(Generic[_Value]):
    """What files say, read again when they change. A change that cannot be used leaves the value as it is."""

    def __init__(self, paths: tuple[Path, ...], read: Callable[[], _Value]) -> None:
        self._paths, self._read = paths, read
        self._looked = time.monotonic()
        self._stamp = self._look()
        self._value = read()
        self.generation = 0

    @property
    def value(self) -> _Value:
        """What they say now."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._value = self._read()
                    self.generation += 1
                except (OSError, ValueError):
                    pass  # half written: the next write is looked at again
        return self._value

    def _look(self) -> object:
        try:
            return [(s.st_mtime_ns, s.st_size, s.st_ino) for s in (path.stat() for path in self._paths)]
        except OSError as error:
            return type(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tls:
    ca: Path | None
    certificate: Path | None
    private_key: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(p for p in (self.ca, self.certificate, self.private_key) if p is not None)

    def read(self) -> grpc.ChannelCredentials:
        """The credentials that the files make.

        Raises:
            ValueError: a file holds no certificate or key, or they do not belong together. OSError: unreadable.
        """
        roots = chain = key = None
        if self.ca is not None:
            roots = self.ca.read_bytes()
            try:
                ssl.create_default_context(cadata=roots.decode())
            except (ssl.SSLError, ValueError):
                raise ValueError(
                    f"{self.ca} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
                ) from None
        if self.certificate is not None and self.private_key is not None:
            chain, key = self.certificate.read_bytes(), self.private_key.read_bytes()
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.certificate, self.private_key)
            except ssl.SSLError as error:
                raise ValueError(
                    f"{self.certificate} and {self.private_key} are no certificate and its key, in PEM form: "
                    f"{error.reason or error}"
                ) from None
        return grpc.ssl_channel_credentials(roots, key, chain)


class Access:
    """A client's credentials. What is not given is looked up: ``$ENVMESH_TOKEN``, ``$ENVMESH_TOKEN_FILE``,
    ``$ENVMESH_CA``, ``$ENVMESH_CERTIFICATE`` and ``$ENVMESH_PRIVATE_KEY``.

    Raises:
        ValueError: they contradict each other, a file cannot be used, or a token would be sent in plain text beyond
            this machine and nobody said ``plaintext=True``.
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        token_file: str | Path | None = None,
        tls: bool | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        private_key: str | Path | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        plaintext: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._token, self.renewable = _token(token, token_file, environ)
        files = _tls_files(ca, certificate, private_key, environ)
        if credentials is not None and (ca or certificate or private_key):
            raise ValueError(
                "credentials already say which certificates count; give them, or files, not both"
            )
        if plaintext and (tls or credentials is not None or ca or certificate):
            raise ValueError("plaintext=True and TLS exclude each other")
        self._static = credentials
        self._files: _FromFiles[grpc.ChannelCredentials] | None = None
        wanted = tls if tls is not None else bool(files.paths) or target.rpartition(":")[2] == TLS_PORT
        if credentials is None and wanted and not plaintext:
            try:
                self._files = _FromFiles(files.paths, files.read)
            except OSError as error:
                raise ValueError(
                    f"{error.filename}: {error.strerror}; a file that can be read is right"
                ) from None
        if self._token is not None and not self.secure and not plaintext and not is_loopback(target):
            raise ValueError(
                f"the token would go to {target} in plain text, for everybody on the way to read; connect with TLS "
                "(ca=FILE, or tls=True where the certificate is one of a public authority), or say plaintext=True"
            )

    def __repr__(self) -> str:
        token = "a token" if self._token is not None else "no token"
        return f"<Access {token}, {'TLS' if self.secure else 'plain text'}>"

    @property
    def secure(self) -> bool:
        """Whether channels are TLS."""
        return self._static is not None or self._files is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call to whoever places."""
        token = self._token() if self._token is not None else ""
        return (("authorization", f"Bearer {token}"),) if token else ()

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """What channels are made with now; None: plain text."""
        return self._files.value if self._files is not None else self._static

    @property
    def generation(self) -> int:
        """Counts how often the certificates were renewed: a channel of an older generation is not used again."""
        if self._files is None:
            return 0
        _ = self._files.value
        return self._files.generation

    def channel(
        self, address: str, options: tuple[tuple[str, Any], ...], server_name: str = ""
    ) -> grpc.aio.Channel:
        """A channel. ``server_name`` is what the certificate there must say, where it is not the address."""
        return open_channel(address, self.credentials, options, server_name)


def channel_options(max_message_bytes: int = 64 << 20) -> tuple[tuple[str, Any], ...]:
    """Options of every channel: message bounds, keepalive, and quick reconnects."""
    return (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.use_local_subchannel_pool", 1),
    )


def open_channel(
    address: str,
    credentials: grpc.ChannelCredentials | None,
    options: tuple[tuple[str, Any], ...],
    server_name: str = "",
) -> grpc.aio.Channel:
    """A channel with these credentials, or in plain text without. It takes the proxy that the environment names, but
    none to this machine itself."""
    if is_loopback(address):
        options = (*options, ("grpc.enable_http_proxy", 0))
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    if server_name:
        options = (*options, ("grpc.ssl_target_name_override", server_name))
    return grpc.aio.secure_channel(address, credentials, options)


def proxy_between(target: str, environ: Mapping[str, str]) -> str:
    """The proxy through which gRPC reaches a target, as "$variable=address" without its password; empty: none."""
    name = next((name for name in PROXY_VARIABLES if environ.get(name)), "")
    exempt = environ.get("no_grpc_proxy") or environ.get("no_proxy") or ""
    host = target.rpartition(":")[0].strip("[]") or target
    exempted = any(host.endswith(end) for end in exempt.replace(" ", "").split(",") if end)
    if not name or is_loopback(target) or exempted:
        return ""
    return f"${name}={environ[name].rpartition('@')[2]}"


def is_loopback(target: str) -> bool:
    """Whether an address is this machine's own."""
    import ipaddress

    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(
    token: str | None, token_file: str | Path | None, environ: Mapping[str, str]
) -> tuple[Callable[[], str] | None, bool]:
    """What gives the token, and whether that may change."""
    if token and token_file:
        raise ValueError("give a token, or the file that holds it, not both")
    if not token and not token_file:
        token, token_file = environ.get("ENVMESH_TOKEN"), environ.get("ENVMESH_TOKEN_FILE")
    if token:
        plain = _checked(token, "the token")
        return lambda: plain, False
    if token_file:
        path = Path(token_file)
        try:
            file = _FromFiles((path,), lambda: _checked(path.read_text(), str(path)))
        except OSError as error:
            raise ValueError(
                f"the token file {path}: {error.strerror}; a file that can be read is right"
            ) from None
        return lambda: file.value, True
    return None, False


def _checked(token: str, where: str) -> str:
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{where} is no token: printable ASCII characters on one line, without spaces, are right"
        )
    return token


def _tls_files(
    ca: str | Path | None,
    certificate: str | Path | None,
    private_key: str | Path | None,
    environ: Mapping[str, str],
) -> _Tls:
    ca = ca or environ.get("ENVMESH_CA") or None
    if not certificate and not private_key:
        certificate = environ.get("ENVMESH_CERTIFICATE") or None
        private_key = environ.get("ENVMESH_PRIVATE_KEY") or None
    if bool(certificate) != bool(private_key):
        raise ValueError(
            "a certificate goes with its private key: give both (certificate=, private_key=), or neither"
        )
    paths = [Path(each) if each else None for each in (ca, certificate, private_key)]
    return _Tls(ca=paths[0], certificate=paths[1], private_key=paths[2])
