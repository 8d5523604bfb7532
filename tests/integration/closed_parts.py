"""A mesh that is closed to strangers: two tenants with two tokens each, and certificates everywhere."""

import asyncio
import datetime as dt
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from envmesh_service.certificates import Authority
from envmesh_service.key_material import KeyPlan, ensure
from envmesh_service.key_stores import DirectoryStore

ROOT = Path(__file__).resolve().parents[2]
SERVED = ("tally=tests.environments.contract:Tally", "saved=tests.environments.contract:Saved")
HERE = ("localhost", "127.0.0.1")
NAMES = {f"{service}-tls": [f"envmesh-{service}", *HERE] for service in ("broker", "host", "autoscaler")}
TOKENS = {"red": ("red-token-1", "red-token-2"), "blue": ("blue-token-1", "blue-token-2")}
FLEET_TOKEN = "fleet-token"


def make_keys(directory: Path, days: int = 100) -> Path:
    """What `envmesh keys` makes, for two tenants."""
    ensure(DirectoryStore(directory), KeyPlan(names=NAMES, days=days), dt.datetime.now(dt.UTC))
    write_tokens(directory, TOKENS)
    return directory


def write_tokens(keys: Path, tokens: Mapping[str, tuple[str, ...]], **more: Any) -> None:
    """Say who is who, all at once, as a mounted Secret changes."""
    digest = lambda token: hashlib.sha256(token.encode()).hexdigest()  # noqa: E731
    document = {
        "tenants": [
            {"name": name, "tokens": [digest(t) for t in each], **more.get(name, {})}
            for name, each in tokens.items()
        ],
        "fleet": [digest(FLEET_TOKEN)],
    }
    put(keys / "credentials" / "credentials.json", json.dumps(document).encode())


def put(path: Path, content: bytes) -> None:
    """Replace a file at once."""
    new = path.with_name(f".{path.name}.test")
    new.write_bytes(content)
    os.replace(new, path)  # noqa: PTH105


def authority_of(keys: Path) -> Authority:
    return Authority.load((keys / "ca" / "tls.crt").read_bytes(), (keys / "ca" / "tls.key").read_bytes())


def renew(keys: Path, leaf: str, authority: Authority | None = None) -> bytes:
    """Give a service a new certificate while it runs, one file after the other. Returns the certificate."""
    authority = authority or authority_of(keys)
    certificate, key = authority.leaf(NAMES[leaf], 50, dt.datetime.now(dt.UTC))
    put(keys / leaf / "tls.crt", certificate)
    put(keys / leaf / "tls.key", key)
    return certificate


def channel(
    address: str, ca: bytes, pair: tuple[bytes, bytes] | None = None, name: str = ""
) -> grpc.aio.Channel:
    """A channel that trusts ``ca``, with a certificate and key of its own, to whoever has one for ``name``."""
    certificate, key = pair or (None, None)
    options: list[tuple[str, Any]] = [("grpc.ssl_target_name_override", name)] if name else []
    options.append(("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), options)


async def until(holds, seconds: float = 20.0):
    """Look until something holds: what other processes do at their own pace is waited for."""
    async with asyncio.timeout(seconds):
        while True:
            found = holds()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)
