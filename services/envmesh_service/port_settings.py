"""What can be set of a service's ports: where it listens, with which certificate, and for whom."""

# ruff: noqa: RUF009 - setting(...) makes a field, as dataclasses.field does

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from envmesh.access import Access
from envmesh_service.rpc import Endpoint
from envmesh_service.settings import Mistake, variable
from envmesh_service.settings import setting as _setting
from envmesh_service.tls import TlsFiles, read_identity

__all__ = ["PortSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSettings:
    """The part of a service's settings that its ports have."""

    PREFIX: ClassVar[str] = "ENVMESH_"

    listen: str = _setting("127.0.0.1:7070", "where it listens, as host:port; port 0 picks one")
    tls_certificate: Path | None = _setting(None, "the PEM file of its certificate chain (tls.crt)")
    tls_private_key: Path | None = _setting(None, "the PEM file of its private key (tls.key)")
    tls_authority: Path | None = _setting(
        None, "the PEM file of the roots that the other services' certificates lead to (ca.crt)"
    )
    plaintext_beyond_loopback: bool = _setting(
        False, "listen beyond this machine without TLS, on a network that secures itself"
    )
    anyone_beyond_loopback: bool = _setting(
        False, "listen beyond this machine without credentials: whoever reaches it is the tenant 'default'"
    )
    credentials_file: Path | None = _setting(
        None, "the JSON file of tenants and hashed tokens; none: no credentials"
    )
    health_listen: str = _setting(
        "", "where an HTTP port answers probes with health only, as host:port; empty: nowhere"
    )
    metrics_listen: str = _setting(
        "127.0.0.1:0",
        "where /metrics is served, as host:port; empty: nowhere; with TLS where there is a certificate",
    )
    metrics_plaintext: bool = _setting(
        False, "serve metrics in plain text, also beyond this machine and where there is a certificate"
    )

    @property
    def endpoint(self) -> Endpoint:
        """Where and how it listens for everybody."""
        return Endpoint(
            listen=self.listen,
            certificate=self.tls_certificate,
            private_key=self.tls_private_key,
            plaintext_beyond_loopback=self.plaintext_beyond_loopback,
        )

    @property
    def tls_files(self) -> TlsFiles | None:
        """Its certificate, and the roots of the other services."""
        if self.tls_certificate is None or self.tls_private_key is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_private_key, self.tls_authority)

    def metrics_url(self, port: int) -> str | None:
        """Where /metrics is, once it is served on ``port``; None: nowhere."""
        if not self.metrics_listen:
            return None
        where = self.metrics_listen.rpartition(":")[0] or "127.0.0.1"
        secured = self.tls_files is not None and not self.metrics_plaintext
        return f"http{'s' * secured}://{where}:{port}/metrics"

    def access_to(self, broker: str, token_file: Path | None = None) -> Access:
        """The credentials with which this service speaks to the broker: TLS where it has an authority, with its own
        certificate where it has one."""
        if self.tls_authority is None:
            return Access(broker, token_file=token_file, plaintext=True, environ={})
        return Access(
            broker,
            token_file=token_file,
            ca=self.tls_authority,
            certificate=self.tls_certificate,
            private_key=self.tls_private_key,
            environ={},
        )

    def broker_mistakes(self, broker: str) -> Iterator[Mistake]:
        """What is wrong with the way to the broker."""
        if (
            not Endpoint(listen=broker).loopback
            and self.tls_authority is None
            and not self.plaintext_beyond_loopback
        ):
            yield Mistake(
                self.variable_of("broker"),
                f"{broker} would be spoken to in plain text beyond this machine",
                f"set {self.variable_of('tls_authority')}, or {self.variable_of('plaintext_beyond_loopback')}=true",
            )

    def port_mistakes(self, *, credentials_expected: bool) -> Iterator[Mistake]:
        """What is wrong with the ports. ``credentials_expected``: trainers prove themselves here."""
        yield from self._address_mistakes()
        missing = list(self._missing_files())
        yield from missing
        if (self.tls_certificate is None) != (self.tls_private_key is None):
            one, other = ("certificate", "private_key")[:: 1 if self.tls_certificate else -1]
            yield Mistake(
                self.variable_of(f"tls_{one}"),
                f"it comes without {self.variable_of(f'tls_{other}')}",
                "set both, or neither",
            )
        elif self.tls_files is not None and not missing:
            try:
                read_identity(self.tls_files)
            except (ValueError, OSError) as error:
                yield Mistake(
                    self.variable_of("tls_certificate"),
                    str(error),
                    "a certificate that is valid now is right",
                )
        if self.endpoint.loopback:
            return
        if self.tls_certificate is None and not self.plaintext_beyond_loopback:
            yield Mistake(
                self.variable_of("listen"),
                f"{self.listen} would be plain text beyond this machine",
                f"listen on 127.0.0.1, set {self.variable_of('tls_certificate')} and "
                f"{self.variable_of('tls_private_key')}, "
                f"or {self.variable_of('plaintext_beyond_loopback')}=true",
            )
        if credentials_expected and self.credentials_file is None and not self.anyone_beyond_loopback:
            yield Mistake(
                self.variable_of("listen"),
                f"{self.listen} would take everybody beyond this machine, for there are no credentials",
                f"listen on 127.0.0.1, set {self.variable_of('credentials_file')} (`envmesh keys` makes one), "
                f"or {self.variable_of('anyone_beyond_loopback')}=true",
            )

    def _address_mistakes(self) -> Iterator[Mistake]:
        for field in ("listen", "metrics_listen", "health_listen"):
            value: str = getattr(self, field)
            if value and not value.startswith("unix:") and not _is_port(value.rpartition(":")[2]):
                yield Mistake(self.variable_of(field), f"{value!r} has no port", "host:port is right")
        plain = self.metrics_plaintext or self.tls_certificate is not None
        if self.metrics_listen and not plain and not Endpoint(listen=self.metrics_listen).loopback:
            yield Mistake(
                self.variable_of("metrics_listen"),
                f"{self.metrics_listen} would be plain text beyond this machine",
                f"listen on 127.0.0.1, set {self.variable_of('tls_certificate')}, "
                f"or {self.variable_of('metrics_plaintext')}=true",
            )

    def _missing_files(self) -> Iterator[Mistake]:
        for field in ("tls_certificate", "tls_private_key", "tls_authority", "credentials_file"):
            path: Path | None = getattr(self, field)
            if path is not None and not path.is_file():
                yield Mistake(
                    self.variable_of(field), f"there is no file {path}", "the path of a file is right"
                )

    @classmethod
    def variable_of(cls, field: str) -> str:
        """The variable of a field."""
        return variable(cls, field)


def _is_port(text: str) -> bool:
    return text.isdecimal() and int(text) <= 65_535
