"""Whose call it is, as a host tells: by the pass that whoever places has given.

A host in a mesh checks no credentials; its broker does, and signs passes. A host alone has a credentials file where it
has credentials at all, signs passes for itself, and takes a bearer token as well, for unary callers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from envmesh.errors import Refusal
from envmesh_service.credentials import ANYBODY, Caller, Metadata, Tokens, bearer_token
from envmesh_service.leases import LeaseVerifier
from envmesh_service.passes import PASS_KEY, PASS_VALIDITY, PassReader
from envmesh_service.watched import Watched

__all__ = ["Callers", "Revocations"]

REMEMBERED_SECONDS = PASS_VALIDITY + 60.0
"""How long a host remembers what a broker of before has revoked: by then every pass of it has ended."""


class Revocations:
    """Which tenants (by name) and credentials (8 bytes) no longer count (pure).

    What a broker tells is the whole list while it is there: what it leaves out counts again. One that was restarted
    knows of nothing that was revoked before, so what was told until then stays for ``REMEMBERED_SECONDS``.
    """

    def __init__(self) -> None:
        self._told: frozenset[str | bytes] = frozenset()
        self._before: dict[str | bytes, float] = {}

    def tell(self, revoked: frozenset[str | bytes]) -> bool:
        """A broker's list. Returns whether it is another than before."""
        if revoked == self._told:
            return False
        for back in self._told - revoked:
            self._before.pop(back, None)
        self._told = revoked
        return True

    def away(self, now: float) -> None:
        """The broker is not heard any more: whichever is heard next may know less."""
        kept = {each: at for each, at in self._before.items() if now - at < REMEMBERED_SECONDS}
        self._before = kept | dict.fromkeys(self._told, now)
        self._told = frozenset()

    def has(self, one: str | bytes, now: float) -> bool:
        """Whether this tenant or credential no longer counts."""
        if one in self._told:
            return True
        at = self._before.get(one)
        return at is not None and now - at < REMEMBERED_SECONDS


class Callers:
    """Tells whose call it is, and who may no longer call. ``required``: whoever shows nothing is refused."""

    def __init__(
        self,
        verifier: LeaseVerifier,
        *,
        required: bool,
        file: Watched[Tokens] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._passes = PassReader(verifier, wall)
        self._file = file
        self._wall = wall
        self._revocations = Revocations()
        self.required = required or file is not None

    def __call__(self, context: Any) -> Caller:
        """Whose call it is.

        Raises:
            Refusal: UNAUTHENTICATED CREDENTIAL_INVALID: nothing is shown where something must be, or it counts no more.
        """
        if not self.required:
            return ANYBODY
        metadata: Metadata = context.invocation_metadata() or ()
        shown = next((value for key, value in metadata if key == PASS_KEY), None)
        if shown is not None:
            caller = self._passes.caller(
                shown.decode(errors="replace") if isinstance(shown, bytes) else shown
            )
        elif self._file is not None:
            caller = self.of_token(metadata)
        else:
            raise Refusal(
                f"a pass is needed: send the metadata {PASS_KEY!r} that comes with a lease and with ListPools",
                reason="CREDENTIAL_INVALID",
            )
        if self.is_revoked(caller):
            raise Refusal("the credential was revoked", reason="CREDENTIAL_INVALID")
        return caller

    def of_token(self, metadata: Metadata) -> Caller:
        """Whose bearer token it is, where this host has credentials; else anybody.

        Raises:
            Refusal: UNAUTHENTICATED CREDENTIAL_INVALID: there is none, or it is not known.
        """
        if self._file is None:
            return ANYBODY
        caller = self._file.value.of_token(bearer_token(metadata))
        if caller is None:
            raise Refusal("the bearer token is not known here", reason="CREDENTIAL_INVALID")
        return caller

    def is_revoked(self, caller: Caller) -> bool:
        """Whether a caller of before may no longer call."""
        if self._file is not None and not self._file.value.known(caller):
            return True
        now = self._wall()
        return self._revocations.has(caller.tenant, now) or self._revocations.has(caller.credential, now)

    def revoked(self, tenants: frozenset[str], credentials: frozenset[bytes]) -> bool:
        """The broker says whose calls count no more. Returns whether that is something else than before."""
        return self._revocations.tell(tenants | credentials)

    def broker_away(self) -> None:
        """The broker is not heard any more; what it has revoked stays so."""
        self._revocations.away(self._wall())
