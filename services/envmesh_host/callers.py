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
from envmesh_service.passes import PASS_KEY, PassReader
from envmesh_service.watched import Watched

__all__ = ["Callers"]


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
        self.required = required or file is not None
        self.revoked_tenants: frozenset[str] = frozenset()
        self.revoked_credentials: frozenset[bytes] = frozenset()

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
        return caller.tenant in self.revoked_tenants or caller.credential in self.revoked_credentials
