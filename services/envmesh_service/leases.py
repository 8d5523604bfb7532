"""Leases, attach tokens and checkpoint seals: who may do what, proved without asking anybody.

A lease is signed with Ed25519 by whoever places (the broker, or a host alone) and checked by the host it names, which
holds the public half only. Attach tokens and checkpoints are sealed with HMAC-SHA-256 under a key that hosts share.
Several keys may be valid at once, so that one can be replaced while the other still counts. Time is an argument
everywhere: seconds since 1970, for a token is read on another machine than it was written on.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError

from envmesh.errors import Refusal
from envmesh.v1.placement_pb2 import LeaseClaims, SignedLease

__all__ = [
    "LEASE_VALIDITY",
    "LeaseSigner",
    "LeaseVerifier",
    "Sealer",
    "key_id",
    "new_lease_key",
    "new_seal_key",
    "read_lease_keys",
    "read_seal_keys",
    "split_lease_keys",
    "write_lease_key",
    "write_seal_key",
]

LEASE_VALIDITY = 10.0
"""How long a grant may wait to be shown to its host, in seconds."""

CLOCK_LEEWAY = 5.0
"""How far the clocks of two machines may differ, in seconds, before a fresh lease looks expired."""

_SEAL_BYTES = 32
_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----", re.DOTALL)


def key_id(public_key: bytes) -> bytes:
    """The name of a key: the first 8 bytes of SHA-256 of its 32 raw public bytes."""
    return hashlib.sha256(public_key).digest()[:8]


class LeaseSigner:
    """Signs leases with the first of its keys and announces all of them.

    A key that is new is announced first and signs later, once every host has heard of it: ``replace`` takes up other
    keys and goes on to sign with the one that did, where it is still among them; ``turn`` signs with the first.
    """

    def __init__(self, keys: Sequence[Ed25519PrivateKey]) -> None:
        if not keys:
            raise ValueError("a signer needs at least one key")
        self._keys: dict[bytes, Ed25519PrivateKey] = {}
        self.public_keys: tuple[bytes, ...] = ()
        self.key_id = b""
        self.replace(keys)
        self.turn()

    def replace(self, keys: Sequence[Ed25519PrivateKey]) -> None:
        """Announce these keys and no others."""
        self.public_keys = tuple(key.public_key().public_bytes_raw() for key in keys)
        self._keys = {key_id(raw): key for raw, key in zip(self.public_keys, keys, strict=True)}
        if self.key_id not in self._keys:
            self.turn()

    def turn(self) -> None:
        """Sign with the first key from now on."""
        self.key_id = key_id(self.public_keys[0])

    @classmethod
    def generate(cls) -> LeaseSigner:
        """A signer with a new key, which lives as long as the process."""
        return cls([Ed25519PrivateKey.generate()])

    def sign(self, claims: LeaseClaims) -> bytes:
        """The token: a serialized SignedLease."""
        return self.signed(claims.SerializeToString()).SerializeToString()

    def signed(self, body: bytes, domain: bytes = b"") -> SignedLease:
        """Claims and their signature; ``domain`` is signed before them and tells one kind of claims from another."""
        signature = self._keys[self.key_id].sign(domain + body)
        return SignedLease(claims=body, signature=signature, key_id=self.key_id)


class LeaseVerifier:
    """Checks leases against the public keys that are valid now."""

    def __init__(self, public_keys: Iterable[bytes] = (), *, leeway: float = CLOCK_LEEWAY) -> None:
        self._keys: dict[bytes, Ed25519PublicKey] = {}
        self._leeway = leeway
        self.generation = 0
        """Counts how often the keys were replaced."""
        self.accept(public_keys)

    def accept(self, public_keys: Iterable[bytes]) -> None:
        """Replace the valid keys (32 raw bytes each).

        Raises:
            ValueError: one of them is no Ed25519 public key; the keys stay as they were.
        """
        self._keys = {key_id(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in public_keys}
        self.generation += 1

    def verify(self, token: bytes, *, host_id: str, now: float) -> LeaseClaims:
        """What a lease says, when it is true.

        Raises:
            Refusal: PERMISSION_DENIED LEASE_INVALID; the message says what is wrong with it: missing, unreadable,
                signed by an unknown key, forged, for another host, or shown too late.
        """
        claims = self.authentic(token)
        if claims.host_id != host_id:
            raise _invalid(f"it is for the host {claims.host_id!r}, this one is {host_id!r}")
        late = now - self._leeway - claims.show_before.ToNanoseconds() / 1e9
        if late > 0:
            raise _invalid(f"it expired {late + self._leeway:.1f} s ago; ask for a new one")
        return claims

    def authentic(self, token: bytes) -> LeaseClaims:
        """What a lease says, when we signed it; whether it still holds is not judged.

        Raises:
            Refusal: PERMISSION_DENIED LEASE_INVALID: missing, unreadable, of an unknown key, or forged.
        """
        if not token:
            raise _invalid("there is none; ask PlacementService for one")
        try:
            signed = SignedLease.FromString(token)
        except DecodeError:
            raise _invalid("it cannot be read") from None
        self.check(signed)
        try:
            claims = LeaseClaims.FromString(signed.claims)
        except DecodeError:
            raise _invalid("its claims cannot be read") from None
        if len(claims.lease_id) != 16 or not claims.count:
            raise _invalid("its claims are incomplete")
        return claims

    def check(self, signed: SignedLease, domain: bytes = b"") -> None:
        """Accept a signature over ``domain`` and the claims.

        Raises:
            Refusal: PERMISSION_DENIED LEASE_INVALID: of an unknown key, or forged.
        """
        key = self._keys.get(signed.key_id)
        if key is None:
            raise _invalid(
                f"it was signed by a key that is not known here ({signed.key_id.hex() or 'no key id'})"
            )
        try:
            key.verify(signed.signature, domain + signed.claims)
        except InvalidSignature:
            raise _invalid("its signature is not that of its key: it is forged or damaged") from None


class Sealer:
    """Seals checkpoints and attach tokens with the first of its keys, and accepts those of all."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys: tuple[bytes, ...] = ()
        self._own = b""
        self.replace(keys)

    def replace(self, keys: Sequence[bytes]) -> None:
        """Accept the seals of these keys and no others, and go on to seal with the one that did, where it is still
        among them; else with the first.

        Raises:
            ValueError: there is none, or one is too short; the keys stay as they were.
        """
        if not keys or any(len(key) < _SEAL_BYTES for key in keys):
            raise ValueError(f"a sealer needs at least one key, each of at least {_SEAL_BYTES} bytes")
        self._keys = tuple(keys)
        if self._own not in self._keys:
            self.turn()

    def turn(self) -> None:
        """Seal with the first key from now on."""
        self._own = self._keys[0]

    @classmethod
    def generate(cls) -> Sealer:
        """A sealer with a new key, which lives as long as the process."""
        return cls([secrets.token_bytes(_SEAL_BYTES)])

    def seal(self, tenant: str, environment: str, version: str, index: int, content: bytes) -> bytes:
        """The seal of a checkpoint: 32 bytes over tenant, environment, version, step index and content digest."""
        return self._macs(_checkpoint(tenant, environment, version, index, content), (self._own,))[0]

    def check(
        self, seal: bytes, tenant: str, environment: str, version: str, index: int, content: bytes
    ) -> None:
        """Accept a checkpoint.

        Raises:
            Refusal: PERMISSION_DENIED NOT_YOURS: the seal belongs to another tenant, environment, version, step or
                content, or to a key that is not valid here.
        """
        if not self._fits(seal, _checkpoint(tenant, environment, version, index, content)):
            raise Refusal(
                "the checkpoint's seal does not fit: it is another tenant's, or was changed, or its key is gone",
                reason="NOT_YOURS",
            )

    def attach_token(self, tenant: str, episode_id: bytes, epoch: int) -> bytes:
        """The right to take over a live copy: the epoch it was given under, then a seal over all three."""
        stamp = epoch.to_bytes(8, "big")
        return stamp + self._macs(_attachment(tenant, episode_id, stamp), (self._own,))[0]

    def check_attach_token(self, token: bytes, tenant: str, episode_id: bytes) -> int:
        """The epoch under which an attach token was given.

        Raises:
            Refusal: PERMISSION_DENIED NOT_YOURS: it is for another tenant or episode, or forged.
        """
        stamp = token[:8]
        if len(token) != 8 + _SEAL_BYTES or not self._fits(token[8:], _attachment(tenant, episode_id, stamp)):
            raise Refusal(
                "the attach token is not for this episode and tenant, or is forged", reason="NOT_YOURS"
            )
        return int.from_bytes(stamp, "big")

    def _fits(self, seal: bytes, body: bytes) -> bool:
        return any(hmac.compare_digest(seal, mac) for mac in self._macs(body, self._keys))

    @staticmethod
    def _macs(body: bytes, keys: Sequence[bytes]) -> list[bytes]:
        return [hmac.digest(key, body, "sha256") for key in keys]


def write_lease_key(path: Path) -> None:
    """Make a new lease key: a PEM file that only its owner can read.

    Raises:
        FileExistsError: there is a file already; a key is never overwritten.
    """
    _write_secret(path, new_lease_key())


def new_lease_key() -> bytes:
    """A new lease key, in PEM."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def split_lease_keys(pem: bytes) -> list[bytes]:
    """The keys of a PEM file, each by itself."""
    return [bytes(key) for key in _PEM.findall(pem)]


def read_lease_keys(path: Path) -> list[Ed25519PrivateKey]:
    """The lease keys of a PEM file. The first signs; the others still count while one is rotated.

    Raises:
        ValueError: the file holds no key, or one that is not Ed25519.
        OSError: it cannot be read.
    """
    keys = []
    for pem in split_lease_keys(path.read_bytes()):
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError):
            raise ValueError(f"{path} holds a private key that cannot be read") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} holds a key that is not Ed25519")
        keys.append(key)
    if not keys:
        raise ValueError(f"{path} holds no private key in PEM form")
    return keys


def write_seal_key(path: Path) -> None:
    """Make a new seal key: a file with one line of hexadecimal digits that only its owner can read.

    Raises:
        FileExistsError: there is a file already; a key is never overwritten.
    """
    _write_secret(path, new_seal_key())


def new_seal_key() -> bytes:
    """A new seal key, as a line of a file."""
    return secrets.token_hex(_SEAL_BYTES).encode() + b"\n"


def read_seal_keys(path: Path) -> list[bytes]:
    """The seal keys of a file, one a line in hexadecimal. The first seals; the others still count.

    Raises:
        ValueError: the file holds no key, or a line that is none.
        OSError: it cannot be read.
    """
    try:
        keys = [bytes.fromhex(line) for line in path.read_text().split()]
    except ValueError:
        raise ValueError(f"{path} must hold one key a line, in hexadecimal digits") from None
    if not keys or any(len(key) < _SEAL_BYTES for key in keys):
        raise ValueError(f"{path} must hold at least one key, each of at least {2 * _SEAL_BYTES} digits")
    return keys


def _write_secret(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _invalid(why: str) -> Refusal:
    return Refusal(f"the lease is refused: {why}", reason="LEASE_INVALID")


def _checkpoint(tenant: str, environment: str, version: str, index: int, content: bytes) -> bytes:
    digest = hashlib.sha256(content).digest()
    return _packed(
        b"checkpoint", tenant.encode(), environment.encode(), version.encode(), b"%d" % index, digest
    )


def _attachment(tenant: str, episode_id: bytes, stamp: bytes) -> bytes:
    return _packed(b"attach", tenant.encode(), episode_id, stamp)


def _packed(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(8, "big") + field for field in fields)
