"""The broker as the autoscaler sees it: its picture of the fleet, and orders to hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc

from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from envmesh_autoscaler.picture import Picture, read_picture
from envmesh_service.clock import Clock

__all__ = ["LOOK_SECONDS", "Fleet"]

log = logging.getLogger("envmesh.autoscaler")

LOOK_SECONDS = 1.0
CALL_SECONDS = 5.0
MOST_BACK_OFF = 1.0


class Fleet:
    """The broker, as far as the autoscaler speaks to it. ``channel`` gives the channel of now."""

    def __init__(
        self,
        channel: Callable[[], grpc.aio.Channel],
        metadata: Callable[[], Sequence[tuple[str, str]]],
        clock: Clock,
    ) -> None:
        self._channel, self._metadata, self._clock = channel, metadata, clock
        self.picture = Picture()
        self.heard_at = float("-inf")
        self.changed = asyncio.Event()

    async def watch(self) -> None:
        """Keep the picture new, until cancelled."""
        request = fleet_pb2.WatchFleetRequest(brief=True)
        request.interval.FromNanoseconds(int(LOOK_SECONDS * 1e9))
        request.gap.FromNanoseconds(100_000_000)
        back_off = 0.1
        while True:
            try:
                call = self._stub().WatchFleet(request, metadata=self._metadata())
                while (answer := await asyncio.wait_for(call.read(), 4 * LOOK_SECONDS)) is not grpc.aio.EOF:
                    self.picture, self.heard_at = read_picture(answer.fleet), self._clock()
                    self.changed.set()
                    back_off = 0.1
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                why = error.details() if isinstance(error, grpc.aio.AioRpcError) else "it is silent"
                log.warning("the broker cannot be watched", extra={"why": why})
            await asyncio.sleep(back_off)
            back_off = min(2 * back_off, MOST_BACK_OFF)

    async def drain(self, hosts: Iterable[str], drain: bool) -> list[str]:
        """Order hosts to drain, or to take their drains back. Returns those that were told."""
        stub, told = self._stub(), []
        for host_id in hosts:
            try:
                if drain:
                    call = stub.Drain(fleet_pb2.DrainRequest(host_id=host_id), **self._options())
                else:
                    call = stub.CancelDrain(fleet_pb2.CancelDrainRequest(host_id=host_id), **self._options())
                await call
                told.append(host_id)
            except grpc.aio.AioRpcError as error:
                log.warning("a host could not be told", extra={"host": host_id, "why": error.details()})
        return told

    async def forget(self, hosts: Iterable[str]) -> None:
        """Say that silent hosts are gone for good."""
        stub = self._stub()
        for host_id in hosts:
            try:
                await stub.Forget(fleet_pb2.ForgetRequest(host_id=host_id), **self._options())
            except grpc.aio.AioRpcError as error:
                log.warning("a lost host is not forgotten", extra={"host": host_id, "why": error.details()})

    def _options(self) -> dict[str, Any]:
        return {"metadata": self._metadata(), "timeout": CALL_SECONDS}

    def _stub(self) -> Any:
        return fleet_pb2_grpc.FleetServiceStub(self._channel())
