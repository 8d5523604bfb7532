"""Reservations: slots that a trainer will want, said beforehand, so that there are hosts by then."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import secrets
from typing import TYPE_CHECKING

import grpc

from envmesh import errors
from envmesh.v1 import placement_pb2

if TYPE_CHECKING:
    from envmesh.mesh import Mesh

__all__ = ["Reservation", "seconds_until"]

log = logging.getLogger("envmesh.client")

REPEAT_SECONDS = 30.0
"""A broker keeps reservations in memory: a new one learns of ours within this."""


def seconds_until(when: dt.datetime | float | None) -> float:
    """How long until ``when``: a moment with its time zone, seconds from now, or None for now; at least 0.

    Raises:
        ValueError: a moment without a time zone, or more than a week away.
    """
    if isinstance(when, dt.datetime):
        if when.tzinfo is None:
            raise ValueError(f"{when} has no time zone: datetime.now(timezone.utc) + timedelta(…) is right")
        seconds = (when - dt.datetime.now(dt.UTC)).total_seconds()
    else:
        seconds = float(when or 0.0)
    if not seconds <= 7 * 86_400:
        raise ValueError(f"a reservation is at most a week ahead; got {seconds:g} s")
    return max(0.0, seconds)


class Reservation:
    """A reservation, repeated until its time is over, ``cancel`` is called, or the client is closed."""

    def __init__(self, mesh: Mesh, environment: str, slots: int, starts_in: float, lasts: float):
        self.environment = environment
        self.slots = slots
        self._mesh = mesh
        self._id = secrets.token_bytes(16)
        self._starts_at = asyncio.get_running_loop().time() + starts_in
        self._lasts = lasts
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Reservation of {self.slots} slots of {self.environment}>"

    async def make(self) -> None:
        """Say it, and go on saying it. Raises: EnvmeshError as the broker refuses."""
        await self._say(self.slots)
        self._task = self._mesh.spawn(self._repeat(), name=f"envmesh-reservation-{self.environment}")

    async def cancel(self) -> None:
        """The slots are not wanted after all. Raises: MeshUnavailable."""
        if self._task is not None:
            self._task.cancel()
        await self._say(0)

    async def _say(self, slots: int) -> None:
        now = asyncio.get_running_loop().time()
        request = placement_pb2.ReserveRequest(
            reservation_id=self._id,
            environment=self.environment,
            slots=slots,
            client_id=self._mesh.client_id,
        )
        left = self._starts_at + self._lasts - now
        request.starts_in.FromNanoseconds(int(max(0.0, self._starts_at - now) * 1e9))
        request.lasts.FromNanoseconds(int(max(1e-3, min(self._lasts, left)) * 1e9))
        mesh = self._mesh
        try:
            await mesh.placement.Reserve(
                request, metadata=mesh.metadata, timeout=mesh.settings.connect_timeout
            )
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from None

    async def _repeat(self) -> None:
        loop = asyncio.get_running_loop()
        while (left := self._starts_at + self._lasts - loop.time()) > 0:
            await asyncio.sleep(min(REPEAT_SECONDS, left))
            try:
                if left > REPEAT_SECONDS:
                    await self._say(self.slots)
            except errors.EnvmeshError as error:
                log.warning("the reservation of %s could not be repeated: %s", self.environment, error)
