"""A host of this repository, with the environments that are played."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.integration.command_line import started

ROOT = Path(__file__).resolve().parents[2]
SERVED = {
    "tally": "Tally",
    "tally-thread": "TallyInThread",
    "tally-process": "TallyInProcess",
    "scarce": "Scarce",
    "saved": "Saved",
    "gate": "Gate",
    "mirror": "Mirror",
    "faulty": "Faulty",
    "slow": "Slow",
    "pair": "Pair",
}
MESSAGE_BYTES, VALUE_BYTES = 8 << 20, 4 << 20


@dataclass(frozen=True, slots=True)
class HostUnderTest:
    """Where it is, and the key that signs its leases (None: not ours to know)."""

    address: str
    lease_key: Ed25519PrivateKey | None

    @property
    def key_id(self) -> bytes:
        """The name of the key: the first 8 bytes of SHA-256 of its public half."""
        assert self.lease_key is not None
        return hashlib.sha256(self.lease_key.public_key().public_bytes_raw()).digest()[:8]


def serving(key: Path, *more: str, **settings: str) -> Any:
    """A host of this repository, with ``more`` targets; a context manager."""
    targets = [f"{name}=tests.environments.contract:{kind}" for name, kind in SERVED.items()]
    targets += more
    variables = {
        "ENVMESH_HOST_LEASE_KEYS_FILE": str(key),
        "ENVMESH_HOST_MAX_MESSAGE_BYTES": str(MESSAGE_BYTES),
        "ENVMESH_HOST_MAX_VALUE_BYTES": str(VALUE_BYTES),
        "ENVMESH_HOST_WORKERS": "1",
        **settings,
    }
    return started("serve", *targets, "--listen", "127.0.0.1:0", cwd=ROOT, **variables)


def write_key(path: Path) -> Ed25519PrivateKey:
    """A new key in a PEM file."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    path.chmod(0o600)
    return key
