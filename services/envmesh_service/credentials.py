"""Who calls: credentials to tenants. Only hashes of tokens are kept, on disk and in memory.

The file is JSON::

    {"tenants": [{"name": "research", "weight": 2, "quota": 4000, "tokens": ["<sha256 of a token, hexadecimal>"],
                  "service_accounts": ["training/ppo", "sweeps/*"]}],
     "fleet": ["<sha256 of the token of hosts, autoscaler and operators>"]}

Without a file everybody is the tenant ``default`` and may do everything, which is meant for one machine or for a
network that is closed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envmesh.errors import Refusal
from envmesh_service.tenants import DEFAULT_TENANT, Tenant

__all__ = [
    "ANYBODY",
    "Caller",
    "Metadata",
    "Tokens",
    "bearer_token",
    "credential_id",
    "read_tokens",
    "token_digest",
]

Metadata = Iterable[tuple[str, str | bytes]]

_NAME_CHARACTERS = 200
_TOKEN_CHARACTERS = 16 * 1024
"""Longer ones are nobody's; those of ServiceAccounts have about a thousand."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. ``fleet``: it may speak for hosts and steer them. ``credential``: which one was shown, 8 bytes."""

    tenant: str
    fleet: bool
    credential: bytes = b""


ANYBODY = Caller(DEFAULT_TENANT, fleet=True)
"""Whoever calls where there are no credentials."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a token file says."""

    callers: Mapping[bytes, Caller] = field(default_factory=dict)
    """By SHA-256 of the token."""
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    accounts: Mapping[str, str] = field(default_factory=dict)
    """Tenants, by ``namespace/name`` of a ServiceAccount, or ``namespace/*``."""

    @classmethod
    def parse(cls, text: str) -> Tokens:
        """Read a token file's text.

        Raises:
            ValueError: with everything that is wrong in it.
        """
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is no JSON: {error}") from None
        if not isinstance(document, dict) or set(document) - {"tenants", "fleet"}:
            raise ValueError("it must be an object with 'tenants' and 'fleet', and nothing else")
        reading = _Reading()
        if not isinstance(document.get("tenants", []), list):
            reading.wrong.append("tenants: a list is right")
        else:
            for number, entry in enumerate(document.get("tenants", [])):
                reading.tenant(entry, f"tenants[{number}]")
        reading.tokens(document.get("fleet", []), "fleet", DEFAULT_TENANT, fleet=True)
        if reading.wrong:
            raise ValueError("; ".join(reading.wrong))
        return cls(reading.callers, reading.tenants, reading.accounts)

    def of_token(self, token: str) -> Caller | None:
        """Whose bearer token it is."""
        return self.callers.get(token_digest(token))

    def of_account(self, namespace: str, name: str) -> str | None:
        """Which tenant a ServiceAccount belongs to."""
        return self.accounts.get(f"{namespace}/{name}") or self.accounts.get(f"{namespace}/*")

    def known(self, caller: Caller) -> bool:
        """Whether a caller that a token made is one still: a token that was moved makes another tenant's."""
        return any(
            (known.tenant, known.credential) == (caller.tenant, caller.credential)
            for known in self.callers.values()
        )


def read_tokens(path: Path) -> Tokens:
    """Read a token file.

    Raises:
        ValueError: with the path and everything that is wrong in it. OSError: it cannot be read.
    """
    try:
        return Tokens.parse(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def bearer_token(metadata: Metadata) -> str:
    """The bearer token of a call.

    Raises:
        Refusal: UNAUTHENTICATED CREDENTIAL_INVALID: there is none.
    """
    for key, value in metadata:
        if key == "authorization":
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            scheme, _, token = text.partition(" ")
            token = token.strip()
            if scheme.lower() != "bearer" or not token:
                raise Refusal("the credential must be a bearer token", reason="CREDENTIAL_INVALID")
            if len(token) > _TOKEN_CHARACTERS:
                raise Refusal("the bearer token is not known here", reason="CREDENTIAL_INVALID")
            return token
    raise Refusal("a bearer token is needed (metadata 'authorization')", reason="CREDENTIAL_INVALID")


def token_digest(token: str) -> bytes:
    """SHA-256 of a token: what files and memory have of it."""
    return hashlib.sha256(token.encode()).digest()


def credential_id(digest: bytes) -> bytes:
    """What hosts are told of a credential: 8 bytes that say nothing of it."""
    return hashlib.sha256(b"envmesh credential" + digest).digest()[:8]


class _Reading:
    """What has been read of a file so far, and what was wrong in it."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.callers: dict[bytes, Caller] = {}
        self.tenants: dict[str, Tenant] = {}
        self.accounts: dict[str, str] = {}

    def tenant(self, entry: Any, where: str) -> None:
        """One entry of ``tenants``."""
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= _NAME_CHARACTERS:
            self.wrong.append(f"{where}: a tenant is an object with a 'name'")
            return
        if set(entry) - {"name", "weight", "quota", "tokens", "service_accounts"}:
            self.wrong.append(
                f"{where}: a tenant has 'name', 'weight', 'quota', 'tokens' and 'service_accounts', and nothing else"
            )
        weight, quota = entry.get("weight", 1.0), entry.get("quota", 0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0.001 <= weight <= 1000:
            self.wrong.append(f"{where}.weight: a number from 0.001 to 1000 is right")
            weight = 1.0
        if isinstance(quota, bool) or not isinstance(quota, int) or quota < 0:
            self.wrong.append(f"{where}.quota: a whole number of at least 0 is right (0: no bound)")
            quota = 0
        if name in self.tenants:
            self.wrong.append(f"{where}: {name!r} is there twice")
        self.tenants[name] = Tenant(name, float(weight), quota)
        self.tokens(entry.get("tokens", []), f"{where}.tokens", name, fleet=False)
        self._accounts(entry.get("service_accounts", []), f"{where}.service_accounts", name)

    def tokens(self, entries: Any, where: str, tenant: str, *, fleet: bool) -> None:
        """A list of hashed tokens."""
        for digest in self._digests(entries, where):
            if digest in self.callers:
                self.wrong.append(f"{where}: one token stands for two callers")
            self.callers[digest] = Caller(tenant, fleet, credential_id(digest))

    def _digests(self, entries: Any, where: str) -> Iterator[bytes]:
        if not isinstance(entries, list):
            self.wrong.append(f"{where}: a list is right")
            return
        for number, entry in enumerate(entries):
            try:
                digest = bytes.fromhex(entry)
            except (TypeError, ValueError):
                digest = b""
            if len(digest) != 32:
                self.wrong.append(
                    f"{where}[{number}]: the SHA-256 of a token is right, as 64 hexadecimal digits"
                )
            else:
                yield digest

    def _accounts(self, entries: Any, where: str, tenant: str) -> None:
        if not isinstance(entries, list):
            self.wrong.append(f"{where}: a list is right")
            return
        for number, entry in enumerate(entries):
            parts = entry.split("/") if isinstance(entry, str) else []
            if len(parts) != 2 or not all(parts) or "*" in parts[0] or ("*" in parts[1] and parts[1] != "*"):
                self.wrong.append(f"{where}[{number}]: NAMESPACE/NAME or NAMESPACE/* is right; got {entry!r}")
            elif entry in self.accounts:
                self.wrong.append(f"{where}[{number}]: {entry!r} stands for two tenants")
            else:
                self.accounts[entry] = tenant
