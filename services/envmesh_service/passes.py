"""Passes: by which hosts know whose call it is, without asking anybody and without seeing a trainer's credential.

Whoever places (the broker, or a host alone) has checked the caller's credential, and sends a pass with each lease
and each list of pools; the client shows it to hosts as metadata. It is signed like a lease, over other bytes, so that
neither can be taken for the other. A host that is broken into learns passes, which end by themselves, and no token.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

from google.protobuf.message import DecodeError

from envmesh.errors import Refusal
from envmesh.v1.placement_pb2 import MetadataEntry, PassClaims, SignedLease
from envmesh_service.credentials import Caller
from envmesh_service.leases import CLOCK_LEEWAY, LeaseSigner, LeaseVerifier

__all__ = ["PASS_KEY", "PASS_VALIDITY", "PassReader", "pass_entry"]

PASS_KEY = "envmesh-pass"
PASS_VALIDITY = 900.0
"""How long a pass opens new calls and streams, in seconds. Revocation does not wait for its end."""

_DOMAIN = b"envmesh pass\n"
_REMEMBERED = 4096


def pass_entry(signer: LeaseSigner, caller: Caller, now: float) -> MetadataEntry:
    """The metadata that a caller is given for hosts. ``now`` is on the wall clock."""
    claims = PassClaims(tenant=caller.tenant, credential=caller.credential)
    claims.valid_until.FromNanoseconds(int((now + PASS_VALIDITY) * 1e9))
    signed = signer.signed(claims.SerializeToString(), _DOMAIN)
    return MetadataEntry(key=PASS_KEY, value=base64.urlsafe_b64encode(signed.SerializeToString()).decode())


class PassReader:
    """Reads passes with the keys that are valid now; a few thousand are remembered, for unary callers."""

    def __init__(self, verifier: LeaseVerifier, wall: Callable[[], float]) -> None:
        self._verifier, self._wall = verifier, wall
        self._read: dict[str, tuple[Caller, float, int]] = {}

    def caller(self, text: str) -> Caller:
        """Whose pass it is.

        Raises:
            Refusal: UNAUTHENTICATED CREDENTIAL_INVALID: unreadable, forged, or over.
        """
        known = self._read.get(text)
        if known is None or known[2] != self._verifier.generation:
            if len(self._read) >= _REMEMBERED:
                self._read.clear()
            known = self._read[text] = (*self._opened(text), self._verifier.generation)
        caller, valid_until, _ = known
        late = self._wall() - CLOCK_LEEWAY - valid_until
        if late > 0:
            raise _refused(f"it ended {late + CLOCK_LEEWAY:.0f} s ago; PlacementService gives a new one")
        return caller

    def _opened(self, text: str) -> tuple[Caller, float]:
        try:
            signed = SignedLease.FromString(base64.b64decode(text.encode(), b"-_", validate=True))
        except (binascii.Error, ValueError, DecodeError):
            raise _refused("it cannot be read") from None
        try:
            self._verifier.check(signed, _DOMAIN)
            claims = PassClaims.FromString(signed.claims)
        except Refusal as refusal:
            raise _refused(str(refusal).partition("refused: ")[2]) from None
        except DecodeError:
            raise _refused("its claims cannot be read") from None
        caller = Caller(claims.tenant, fleet=False, credential=claims.credential)
        return caller, claims.valid_until.ToNanoseconds() / 1e9


def _refused(why: str) -> Refusal:
    return Refusal(f"the pass (metadata {PASS_KEY!r}) is refused: {why}", reason="CREDENTIAL_INVALID")
