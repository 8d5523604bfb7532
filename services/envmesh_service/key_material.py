"""What a mesh needs to be closed to strangers, made once: authority, certificates, keys, and one trainer's token.

Each item is a few files under a name: a directory on a disk, or a Secret of a cluster. What is there is never
overwritten; what is missing is made to fit it. Two exceptions are asked for in as many words: a certificate that ends
soon is renewed, and a new key is put before the old one.
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from envmesh_service.certificates import Authority, days_left
from envmesh_service.credentials import Tokens, token_digest
from envmesh_service.leases import new_lease_key, new_seal_key, split_lease_keys

__all__ = ["ITEMS", "Item", "KeyPlan", "Store", "ensure", "rotate"]

CA, CREDENTIALS, TRAINER_TOKEN = "ca", "credentials", "trainer-token"
LEASE_KEYS, SEAL_KEYS = "lease-keys", "seal-keys"
LEAVES = ("broker-tls", "host-tls", "autoscaler-tls")
GATEWAY_LEAF = "gateway-tls"
"""Made only where a mesh has a gateway, that is where the plan has names for it."""
ITEMS = (CA, *LEAVES, LEASE_KEYS, SEAL_KEYS, TRAINER_TOKEN, CREDENTIALS)
LEASE_FILE, SEAL_FILE, CREDENTIALS_FILE, TOKEN_FILE = (
    "lease-keys.pem",
    "seal-keys",
    "credentials.json",
    "token",
)

Files = Mapping[str, bytes]


class Store(Protocol):
    """Where items are kept."""

    def read(self, item: str) -> Files | None:
        """The files of an item; None: it is not there."""
        ...

    def create(self, item: str, files: Files) -> bool:
        """Keep a new item. False: there is one by now, which stays."""
        ...

    def replace(self, item: str, files: Files) -> None:
        """Change these files of an item that is there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlan:
    """What is to be there. ``names`` are the names on certificates, by leaf; the first says what the service is."""

    names: Mapping[str, Sequence[str]]
    days: int = 1825
    authority_days: int = 3650
    renew_days: float = 0.0
    """A certificate with fewer days left is renewed; 0: none is."""
    tenant: str = "trainers"


@dataclass(frozen=True, slots=True)
class Item:
    """What became of an item."""

    name: str
    done: str
    """``made``, ``renewed``, or ``kept``."""
    why: str = ""
    """Why something was kept that ends soon."""


def ensure(store: Store, plan: KeyPlan, now: dt.datetime) -> list[Item]:
    """Make what is missing.

    Raises:
        ValueError: what is there does not allow it; the message says which item and why.
        OSError: the store does not answer.
    """
    done: list[Item] = []
    authority = _authority(store, plan, now, done)
    for leaf in (*LEAVES, *((GATEWAY_LEAF,) if GATEWAY_LEAF in plan.names else ())):
        _leaf(store, plan, leaf, authority, now, done)
    _make(store, LEASE_KEYS, {LEASE_FILE: new_lease_key()}, done)
    _make(store, SEAL_KEYS, {SEAL_FILE: new_seal_key()}, done)
    _credentials(store, plan, authority.pem, done)
    return done


def rotate(store: Store, item: str) -> Item:
    """Put a new key before the one that is used now, which still counts, and drop the one before that.

    Raises:
        ValueError: it is no item with keys, or is not there, or holds no key.
    """
    if item not in (LEASE_KEYS, SEAL_KEYS):
        raise ValueError(f"{item!r} cannot be rotated; {LEASE_KEYS} and {SEAL_KEYS} can")
    files = store.read(item)
    name = LEASE_FILE if item == LEASE_KEYS else SEAL_FILE
    if files is None or name not in files:
        raise ValueError(f"there is no {item} with {name} yet; make it first, without --rotate")
    old = split_lease_keys(files[name]) if item == LEASE_KEYS else files[name].split()
    if not old:
        raise ValueError(f"{item}: {name} holds no key")
    new = new_lease_key() if item == LEASE_KEYS else new_seal_key()
    store.replace(item, {name: new + old[0] + b"\n"})
    return Item(item, "renewed")


def _authority(store: Store, plan: KeyPlan, now: dt.datetime, done: list[Item]) -> Authority:
    made = Authority.make("envmesh", plan.authority_days, now)
    files = _make(store, CA, {"tls.crt": made.pem, "tls.key": made.key_pem}, done)
    try:
        return Authority.load(files["tls.crt"], files["tls.key"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{CA}: {error}; tls.crt and tls.key of an authority in PEM are right") from None


def _leaf(
    store: Store, plan: KeyPlan, leaf: str, authority: Authority, now: dt.datetime, done: list[Item]
) -> None:
    def pair() -> Files:
        certificate, key = authority.leaf(plan.names[leaf], plan.days, now)
        return {"tls.crt": certificate, "tls.key": key}

    there = store.read(leaf)
    if there is None:
        _make(store, leaf, {**pair(), "ca.crt": authority.pem}, done)
        return
    try:
        left = days_left(there["tls.crt"], now)
    except (KeyError, ValueError):
        raise ValueError(
            f"{leaf}: tls.crt is no certificate in PEM form; remove the item, or put one there"
        ) from None
    if left >= plan.renew_days:
        done.append(Item(leaf, "kept"))
    elif authority.pem.strip() in there.get("ca.crt", b""):  # beside another, while the authority is changed
        store.replace(leaf, pair())
        done.append(Item(leaf, "renewed"))
    else:
        done.append(Item(leaf, "kept", "its ca.crt does not have this authority"))


def _credentials(store: Store, plan: KeyPlan, authority: bytes, done: list[Item]) -> None:
    """The trainer's token first, so that a run that ends halfway is finished by the next: the file has its hash."""
    there = store.read(CREDENTIALS)
    if there is not None:
        done += [Item(TRAINER_TOKEN, "kept"), Item(CREDENTIALS, "kept")]
        return
    new = f"envmesh_{secrets.token_urlsafe(32)}".encode()
    files = _make(store, TRAINER_TOKEN, {TOKEN_FILE: new, "ca.crt": authority}, done)
    if TOKEN_FILE not in files:
        raise ValueError(f"{TRAINER_TOKEN}: there is no {TOKEN_FILE} in it")
    digest = token_digest(files[TOKEN_FILE].decode().strip()).hex()
    document = json.dumps({"tenants": [{"name": plan.tenant, "tokens": [digest]}], "fleet": []}, indent=2)
    Tokens.parse(document)
    _make(store, CREDENTIALS, {CREDENTIALS_FILE: document.encode() + b"\n"}, done)


def _make(store: Store, item: str, files: Files, done: list[Item]) -> Files:
    """What is there, or else these files."""
    there = store.read(item)
    if there is None and store.create(item, files):
        done.append(Item(item, "made"))
        return files
    done.append(Item(item, "kept"))
    there = there if there is not None else store.read(item)
    if there is None:
        raise ValueError(f"{item}: somebody made it and removed it at the same time; try again")
    return there
