"""Who may do what on this host: leases, attach tokens and the seals of checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable

from envmesh.v1 import environment_pb2 as pb
from envmesh_host.copy import EpisodeCopy
from envmesh_host.journals import saved_environment
from envmesh_host.slots import Claim, Holding
from envmesh_service.leases import CLOCK_LEEWAY, LeaseVerifier, Sealer

__all__ = ["HostRights"]


class HostRights:
    """Checks what clients show, with the public keys of whoever places and the key that hosts share."""

    def __init__(
        self, host_id: str, verifier: LeaseVerifier, sealer: Sealer, wall: Callable[[], float] = time.time
    ):
        self.host_id = host_id
        self.verifier = verifier
        self._sealer = sealer
        self._wall = wall

    def claim(self, token: bytes, client_id: bytes, known: Callable[[bytes], Holding | None]) -> Claim:
        """What a lease's token entitles to here; once shown, the host keeps it and it expires no more.

        Raises:
            Refusal: LEASE_INVALID.
        """
        claims = self.verifier.authentic(token)
        if known(claims.lease_id) is None:
            claims = self.verifier.verify(token, host_id=self.host_id, now=self._wall())
        return Claim(
            lease_id=claims.lease_id,
            tenant=claims.tenant,
            environment=claims.environment,
            count=claims.count,
            client_id=client_id,
            relocation=claims.relocation,
            token_seconds=claims.show_before.ToNanoseconds() / 1e9 + CLOCK_LEEWAY - self._wall(),
        )

    def attach_token(self, copy: EpisodeCopy) -> bytes:
        """Proof of a right to take this copy over."""
        return self._sealer.attach_token(copy.tenant, copy.episode_id, copy.epoch)

    def check_attach_token(self, token: bytes, tenant: str, episode_id: bytes) -> None:
        """Raises: Refusal NOT_YOURS."""
        self._sealer.check_attach_token(token, tenant, episode_id)

    def seal(self, copy: EpisodeCopy, content: bytes) -> pb.SealedCheckpoint:
        """A checkpoint that cannot be altered unnoticed."""
        info = copy.environment.info
        seal = self._sealer.seal(copy.tenant, info.name, info.version, copy.index, content)
        return pb.SealedCheckpoint(index=copy.index, content=content, seal=seal)

    def check_seals(self, journal: pb.Journal, tenant: str) -> None:
        """Raises: Refusal NOT_YOURS or MALFORMED for a checkpoint of the journal that is not ours."""
        for entry in journal.entries:
            if entry.WhichOneof("entry") != "checkpoint":
                continue
            sealed = entry.checkpoint
            name, _, version = saved_environment(sealed.content).rpartition("@")
            self._sealer.check(sealed.seal, tenant, name, version, sealed.index, sealed.content)
