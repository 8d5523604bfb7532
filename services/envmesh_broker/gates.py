"""Who may speak to FleetService: hosts may register, operators (and the autoscaler) may do everything.

On the fleet's own port a certificate says it: the handshake has shown that it leads to the mesh's authority, and its
names say what for. On the trainers' port it is a bearer token of the credentials file's ``fleet``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from envmesh.errors import Refusal
from envmesh_broker.authentication import Authenticator

__all__ = ["CertificateGate", "Gate", "TokenGate"]


class Gate(Protocol):
    """Lets a caller in, or refuses."""

    async def check(self, context: Any, *, registers: bool = False) -> None:
        """Whether this call may be made. ``registers``: it is a host's own session.

        Raises:
            Refusal: PERMISSION_DENIED NOT_YOURS, UNAUTHENTICATED CREDENTIAL_INVALID.
        """
        ...


class TokenGate:
    """By bearer token: whoever is of the fleet may do everything."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def check(self, context: Any, *, registers: bool = False) -> None:
        """Whether the token is the fleet's. Raises: Refusal, as ``Gate``."""
        caller = await self._authenticator.caller(context.invocation_metadata() or ())
        if not caller.fleet:
            raise Refusal("this credential does not speak for the fleet", reason="NOT_YOURS")


class CertificateGate:
    """By the names on the peer's certificate."""

    def __init__(self, hosts: Collection[str], operators: Collection[str]) -> None:
        self._hosts, self._operators = frozenset(hosts), frozenset(operators)

    async def check(self, context: Any, *, registers: bool = False) -> None:
        """Whether the certificate has a name that may. Raises: Refusal, as ``Gate``."""
        names = {raw.decode(errors="replace") for raw in context.auth_context().get(_NAMES, ())}
        if not names & (self._hosts | self._operators if registers else self._operators):
            may = sorted(self._hosts | self._operators if registers else self._operators)
            raise Refusal(
                f"the certificate is for {', '.join(sorted(names)) or 'nobody'}; "
                f"this call takes one for {' or '.join(may)}",
                reason="NOT_YOURS",
            )


_NAMES = "x509_subject_alternative_name"
