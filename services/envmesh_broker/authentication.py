"""Who calls: bearer tokens to tenants. Only hashes of tokens are kept, on disk and in memory.

The file is JSON::

    {"tenants": [{"name": "research", "weight": 2, "quota": 4000, "tokens": ["<sha256 of a token, hexadecimal>"]}],
     "fleet": ["<sha256 of the token of hosts, autoscaler and operators>"]}

Without a file everybody is the tenant ``default`` and may do everything, which is meant for one machine or for a
network that is closed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from envmesh.errors import Refusal
from envmesh_broker.fairness import Tenant

__all__ = ["DEFAULT_TENANT", "Authenticator", "Caller", "Everybody", "TokenFile", "Tokens"]

DEFAULT_TENANT = "default"

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. ``fleet``: it may speak for hosts and steer them."""

    tenant: str
    fleet: bool


class Authenticator(Protocol):
    """Tells who calls, and what is known of tenants."""

    def caller(self, metadata: Metadata) -> Caller:
        """Who sends this metadata.

        Raises:
            Refusal: UNAUTHENTICATED CREDENTIAL_INVALID.
        """
        ...

    def tenant(self, name: str) -> Tenant:
        """Weight and quota of a tenant; the defaults for one that is not known."""
        ...

    def reload(self) -> None:
        """Look whether credentials have changed."""
        ...

    @property
    def revoked(self) -> frozenset[str]:
        """Tenants that were known and no longer are."""
        ...


class Everybody:
    """No credentials: everybody is one tenant."""

    revoked: frozenset[str] = frozenset()

    def caller(self, metadata: Metadata) -> Caller:
        """The default tenant, who may do everything."""
        return Caller(DEFAULT_TENANT, fleet=True)

    def tenant(self, name: str) -> Tenant:
        """Weight 1, no quota."""
        return Tenant(name)

    def reload(self) -> None:
        """Nothing can change."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a token file says."""

    callers: Mapping[bytes, Caller]
    tenants: Mapping[str, Tenant]

    @classmethod
    def parse(cls, text: str) -> Tokens:
        """Read a token file's text.

        Raises:
            ValueError: with everything that is wrong in it.
        """
        wrong: list[str] = []
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is no JSON: {error}") from None
        if not isinstance(document, dict) or set(document) - {"tenants", "fleet"}:
            raise ValueError("it must be an object with 'tenants' and 'fleet', and nothing else")
        callers: dict[bytes, Caller] = {}
        tenants: dict[str, Tenant] = {}
        for number, entry in enumerate(document.get("tenants", [])):
            tenant = _tenant(entry, f"tenants[{number}]", wrong)
            if tenant is not None:
                if tenant.name in tenants:
                    wrong.append(f"tenants[{number}]: {tenant.name!r} is there twice")
                tenants[tenant.name] = tenant
                for digest in _digests(entry.get("tokens", []), f"tenants[{number}].tokens", wrong):
                    if digest in callers:
                        wrong.append(f"tenants[{number}].tokens: one token stands for two callers")
                    callers[digest] = Caller(tenant.name, fleet=False)
        for digest in _digests(document.get("fleet", []), "fleet", wrong):
            if digest in callers:
                wrong.append("fleet: one token stands for two callers")
            callers[digest] = Caller(DEFAULT_TENANT, fleet=True)
        if wrong:
            raise ValueError("; ".join(wrong))
        return cls(callers, tenants)


class TokenFile:
    """Bearer tokens from a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._tokens = Tokens.parse(path.read_text())
        self._ever = set(self._tokens.tenants)

    @property
    def revoked(self) -> frozenset[str]:
        """Tenants that the file had since this process started, and no longer has."""
        return frozenset(self._ever - set(self._tokens.tenants))

    def caller(self, metadata: Metadata) -> Caller:
        """Whose token it is.

        Raises:
            Refusal: UNAUTHENTICATED CREDENTIAL_INVALID: no token, or an unknown one.
        """
        for key, value in metadata:
            if key == "authorization":
                scheme, _, token = (value.decode() if isinstance(value, bytes) else value).partition(" ")
                if scheme.lower() != "bearer":
                    raise Refusal("the credential must be a bearer token", reason="CREDENTIAL_INVALID")
                caller = self._tokens.callers.get(hashlib.sha256(token.strip().encode()).digest())
                if caller is None:
                    raise Refusal("the bearer token is not known here", reason="CREDENTIAL_INVALID")
                return caller
        raise Refusal("a bearer token is needed (metadata 'authorization')", reason="CREDENTIAL_INVALID")

    def tenant(self, name: str) -> Tenant:
        """Weight and quota of a tenant; the defaults for one that the file does not have."""
        return self._tokens.tenants.get(name) or Tenant(name)

    def reload(self) -> None:
        """Read the file again if it was written since.

        Raises:
            ValueError: it is wrong now; the tokens stay as they were.
            OSError: it cannot be read; the tokens stay as they were.
        """
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            self._tokens = Tokens.parse(self._path.read_text())
            self._ever |= set(self._tokens.tenants)

    def _stamp(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino


def _tenant(entry: Any, where: str, wrong: list[str]) -> Tenant | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        wrong.append(f"{where}: a tenant is an object with a 'name'")
        return None
    if set(entry) - {"name", "weight", "quota", "tokens"}:
        wrong.append(f"{where}: a tenant has 'name', 'weight', 'quota' and 'tokens', and nothing else")
    weight, quota = entry.get("weight", 1.0), entry.get("quota", 0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0.001 <= weight <= 1000:
        wrong.append(f"{where}.weight: a number from 0.001 to 1000 is right")
        weight = 1.0
    if isinstance(quota, bool) or not isinstance(quota, int) or quota < 0:
        wrong.append(f"{where}.quota: a whole number of at least 0 is right (0: no bound)")
        quota = 0
    return Tenant(entry["name"], float(weight), quota)


def _digests(entries: Any, where: str, wrong: list[str]) -> Iterable[bytes]:
    if not isinstance(entries, list):
        wrong.append(f"{where}: a list is right")
        return
    for number, entry in enumerate(entries):
        try:
            digest = bytes.fromhex(entry)
        except (TypeError, ValueError):
            digest = b""
        if len(digest) != 32:
            wrong.append(f"{where}[{number}]: the SHA-256 of a token is right, as 64 hexadecimal digits")
        else:
            yield digest
