"""TLS of a port, from files that may be replaced while it is open.

The files are those of cert-manager and of Kubernetes' TLS Secrets: ``tls.crt`` (the chain, this certificate first),
``tls.key`` and ``ca.crt``. They are judged before they are used: a certificate that is expired, or not of its key, is
told at the start with its file and what would be right, and never replaces one that works.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from envmesh_service.watched import Watched

__all__ = ["Identity", "TlsFiles", "read_authority", "read_identity", "server_credentials"]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where a certificate is, and the roots that its peers' certificates must lead to (None: peers show none)."""

    certificate: Path
    private_key: Path
    authority: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        own = (self.certificate, self.private_key)
        return own if self.authority is None else (*own, self.authority)


@dataclass(frozen=True, slots=True)
class Identity:
    """What TLS files hold, judged: PEM bytes, and until when the certificate is valid."""

    chain: bytes
    private_key: bytes
    authority: bytes | None
    not_after: dt.datetime
    names: tuple[str, ...]


def read_identity(files: TlsFiles, now: Callable[[], dt.datetime] | None = None) -> Identity:
    """Read and judge TLS files.

    Raises:
        ValueError: a file holds no certificate or key, they do not belong together, or the certificate is not valid
            now.
        OSError: a file cannot be read.
    """
    chain, key_bytes = files.certificate.read_bytes(), files.private_key.read_bytes()
    certificate = _certificates(chain, files.certificate)[0]
    try:
        key: Any = serialization.load_pem_private_key(key_bytes, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(
            f"{files.private_key} holds no private key in PEM form; one without a password is right"
        ) from None
    if _public_bytes(key.public_key()) != _public_bytes(certificate.public_key()):
        raise ValueError(
            f"{files.private_key} is not the key of the certificate in {files.certificate}; "
            "both from one Secret or one run of `envmesh keys` are right"
        )
    moment = now() if now is not None else dt.datetime.now(dt.UTC)
    if moment > certificate.not_valid_after_utc:
        raise ValueError(
            f"the certificate in {files.certificate} expired on {_day(certificate.not_valid_after_utc)}; renew it"
        )
    if moment + dt.timedelta(minutes=5) < certificate.not_valid_before_utc:
        raise ValueError(
            f"the certificate in {files.certificate} is valid from {_day(certificate.not_valid_before_utc)} only; "
            "is this machine's clock right?"
        )
    authority = read_authority(files.authority) if files.authority is not None else None
    return Identity(chain, key_bytes, authority, certificate.not_valid_after_utc, _names(certificate))


def read_authority(path: Path) -> bytes:
    """The roots in a PEM file.

    Raises:
        ValueError: it holds no certificate. OSError: it cannot be read.
    """
    pem = path.read_bytes()
    _certificates(pem, path)
    return pem


def server_credentials(watched: Watched[Identity], *, require_client: bool) -> grpc.ServerCredentials:
    """Credentials of a port that take up what ``watched`` has at each handshake; open connections go on."""
    made: list[Any] = [None, None]

    def configuration() -> Any:
        identity = watched.value
        if made[0] is not identity:
            made[:] = (
                identity,
                grpc.ssl_server_certificate_configuration(
                    [(identity.private_key, identity.chain)], identity.authority if require_client else None
                ),
            )
        return made[1]

    return grpc.dynamic_ssl_server_credentials(
        configuration(), configuration, require_client_authentication=require_client
    )


def _certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError(f"{path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _public_bytes(key: Any) -> bytes:
    raw: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return raw


def _day(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
