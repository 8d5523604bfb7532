"""The broker's judgement of credentials: who calls, what is known of tenants, and who may no longer.

Bearer tokens are looked up in the credentials file. With token reviews a token that is not there may be one of the
cluster's ServiceAccounts; the file says which tenant it belongs to.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from envmesh.errors import Refusal
from envmesh_broker.token_reviews import TokenReviews
from envmesh_service.clock import Clock
from envmesh_service.credentials import (
    ANYBODY,
    Caller,
    Metadata,
    Tokens,
    bearer_token,
    read_tokens,
)
from envmesh_service.passes import PASS_VALIDITY
from envmesh_service.tenants import DEFAULT_TENANT, Tenant
from envmesh_service.watched import Watched

__all__ = ["Authenticator", "Credentials", "Everybody"]

_REMEMBERED = PASS_VALIDITY + 60.0
"""Seconds for which hosts are told of a revoked credential: by then its passes have ended."""


class Authenticator(Protocol):
    """Tells who calls, and what is known of tenants."""

    required: bool
    """Whether there are credentials at all."""

    async def caller(self, metadata: Metadata) -> Caller:
        """Who sends this metadata.

        Raises:
            Refusal: UNAUTHENTICATED CREDENTIAL_INVALID, UNAVAILABLE UNREACHABLE while they cannot be judged.
        """
        ...

    def tenant(self, name: str) -> Tenant:
        """Weight and quota of a tenant; the defaults for one that is not known."""
        ...

    def check_standing(self, caller: Caller) -> None:
        """Whether a caller of before is one still.

        Raises:
            Refusal: UNAUTHENTICATED CREDENTIAL_INVALID: the credential was revoked.
        """
        ...

    async def review(self) -> None:
        """Look, every half second or so, whether credentials have changed."""
        ...

    def revoked_tenants(self, held: Iterable[str]) -> frozenset[str]:
        """Tenants that may hold nothing any more, of those who were known and of those who hold slots."""
        ...

    @property
    def revoked_credentials(self) -> frozenset[bytes]:
        """Credentials that counted a while ago and no longer do."""
        ...


class Everybody:
    """No credentials: everybody is one tenant."""

    required = False
    revoked_credentials: frozenset[bytes] = frozenset()

    async def caller(self, metadata: Metadata) -> Caller:
        """The default tenant, who may do everything."""
        return ANYBODY

    def tenant(self, name: str) -> Tenant:
        """Weight 1, no quota."""
        return Tenant(name)

    def check_standing(self, caller: Caller) -> None:
        """Nothing can change."""

    async def review(self) -> None:
        """Nothing can change."""

    def revoked_tenants(self, held: Iterable[str]) -> frozenset[str]:
        """Nobody."""
        return frozenset()


class Credentials:
    """Bearer tokens from a file that is watched, and ServiceAccount tokens where there are reviews.

    Raises, when made:
        ValueError: the file is wrong. OSError: it cannot be read.
    """

    required = True

    def __init__(self, path: Path, clock: Clock, reviews: TokenReviews | None = None) -> None:
        self._file: Watched[Tokens] = Watched(
            "the credentials file", [path], lambda: read_tokens(path), self._renewed
        )
        self._clock, self._reviews = clock, reviews
        self._now = self._file.value
        self._ever = set(self._now.tenants)
        self._revoked: dict[bytes, float] = {}

    async def caller(self, metadata: Metadata) -> Caller:
        """Whose token it is.

        Raises:
            Refusal: UNAUTHENTICATED CREDENTIAL_INVALID: no token, an unknown one, or one of a ServiceAccount that is
                no tenant's. UNAVAILABLE UNREACHABLE: the API server, which would know, does not answer.
        """
        token = bearer_token(metadata)
        caller = self._now.of_token(token)
        if caller is not None:
            caller = replace(caller, credential=_credential_in(caller.tenant, caller.credential))
        elif self._reviews is not None and token.count(".") == 2:
            account = await self._reviews.account(token)
            if account is not None:
                tenant = self._now.of_account(account.namespace, account.name)
                if tenant is None:
                    raise Refusal(
                        f"the ServiceAccount {account.namespace}/{account.name} belongs to no tenant here",
                        reason="CREDENTIAL_INVALID",
                    )
                caller = Caller(tenant, fleet=False, credential=_credential_in(tenant, account.credential))
                self._revoked.pop(caller.credential, None)
        if caller is None:
            raise Refusal("the bearer token is not known here", reason="CREDENTIAL_INVALID")
        return caller

    def tenant(self, name: str) -> Tenant:
        """Weight and quota of a tenant; the defaults for one that the file does not have."""
        return self._now.tenants.get(name) or Tenant(name)

    def check_standing(self, caller: Caller) -> None:
        """Whether a caller of before is one still.

        Raises:
            Refusal: UNAUTHENTICATED CREDENTIAL_INVALID: the credential was revoked.
        """
        known = caller.tenant == DEFAULT_TENANT or caller.tenant in self._now.tenants
        if not known or caller.credential in self._revoked:
            raise Refusal("the credential was revoked", reason="CREDENTIAL_INVALID")

    async def review(self) -> None:
        """Read the file again if it was written, and have ServiceAccount tokens reviewed again when it is time."""
        self._file.refresh()
        now = self._clock()
        if self._reviews is not None:
            for account in await self._reviews.review_again():
                tenant = self._now.of_account(account.namespace, account.name)
                self._revoked |= dict.fromkeys(_told(tenant, account.credential), now)
        for credential in [c for c, since in self._revoked.items() if now - since > _REMEMBERED]:
            del self._revoked[credential]

    def revoked_tenants(self, held: Iterable[str]) -> frozenset[str]:
        """Tenants that hold slots or were in the file since this process started, and are not in it now."""
        return frozenset((self._ever | set(held)) - self._now.tenants.keys() - {DEFAULT_TENANT})

    @property
    def revoked_credentials(self) -> frozenset[bytes]:
        """Tokens that went from the file, and those of ServiceAccounts that are no more."""
        return frozenset(self._revoked)

    def _renewed(self, tokens: Tokens) -> None:
        before, after = self._counting(self._now), self._counting(tokens)
        self._now = tokens
        self._ever |= set(tokens.tenants)
        self._revoked |= dict.fromkeys(before - after, self._clock())
        for credential in after:
            self._revoked.pop(credential, None)

    def _counting(self, tokens: Tokens) -> set[bytes]:
        """What hosts would be told of every credential that counts by this file, were it revoked."""
        accounts = self._reviews.accounts() if self._reviews is not None else ()
        told = [_told(caller.tenant, caller.credential) for caller in tokens.callers.values()]
        told += [
            _told(tokens.of_account(account.namespace, account.name), account.credential)
            for account in accounts
        ]
        return set(itertools.chain.from_iterable(told))


def _told(tenant: str | None, credential: bytes) -> tuple[bytes, ...]:
    """What hosts are told when this credential no longer counts for this tenant: as passes say it, and as they said it
    before credentials were bound to tenants, for a broker is replaced by a newer one while passes of the older last."""
    return () if tenant is None else (_credential_in(tenant, credential), credential)


def _credential_in(tenant: str, credential: bytes) -> bytes:
    """A credential of a tenant, in 8 bytes: one that is moved to another tenant is another there, so that it can be
    revoked here and count there."""
    return hashlib.sha256(b"envmesh credential of a tenant" + credential + tenant.encode()).digest()[:8]
